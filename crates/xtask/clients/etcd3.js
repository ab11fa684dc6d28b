// What the npm package etcd3 promises its users, against the server at ETCD_HOST:ETCD_PORT, users included.

const assert = require('node:assert');
const { Etcd3 } = require('etcd3');

const hosts = `http://${process.env.ETCD_HOST}:${process.env.ETCD_PORT}`;
const client = new Etcd3({ hosts });

async function keys() {
  await client.delete().prefix('js/');
  await client.put('js/a').value('1');
  await client.put('js/b').value('2');
  assert.strictEqual(await client.get('js/a').string(), '1');
  assert.strictEqual(await client.get('js/none').string(), null);
  assert.strictEqual(await client.get('js/a').number(), 1);
  assert.deepStrictEqual(await client.getAll().prefix('js/').strings(), { 'js/a': '1', 'js/b': '2' });
  assert.deepStrictEqual(await client.getAll().prefix('js/').sort('Key', 'Descend').limit(1).keys(), ['js/b']);
  assert.strictEqual(await client.getAll().inRange({ start: 'js/a', end: 'js/c' }).count(), 2);
  assert.strictEqual((await client.put('js/a').value('3').getPrevious()).value.toString(), '1');
  assert.strictEqual((await client.delete().prefix('js/')).deleted, '2');
  const space = client.namespace('js/space/');
  await space.put('k').value('v');
  assert.strictEqual(await client.get('js/space/k').string(), 'v');
  assert.deepStrictEqual(await space.getAll().keys(), ['k']);
}

async function transactions() {
  const outcome = await client
    .if('js/t', 'Create', '==', 0)
    .then(client.put('js/t').value('first'))
    .else(client.get('js/t'))
    .commit();
  assert.strictEqual(outcome.succeeded, true);
  const again = await client.if('js/t', 'Create', '==', 0).then().else(client.get('js/t')).commit();
  assert.strictEqual(again.succeeded, false);
  assert.strictEqual(again.responses[0].response_range.kvs[0].value.toString(), 'first');
  await client.put('js/count').value('0');
  const add = () => client.stm().transact(async (tx) => {
    const count = await tx.get('js/count').number();
    await tx.put('js/count').value(count + 1);
  });
  await Promise.all([add(), add(), add()]);
  assert.strictEqual(await client.get('js/count').number(), 3);
}

async function watches() {
  const watcher = await client.watch().prefix('js/w/').create();
  const seen = new Promise((resolve) => {
    const events = [];
    const note = (kind) => (kv) => {
      events.push(`${kind} ${kv.key}`);
      if (events.length === 2) resolve(events);
    };
    watcher.on('put', note('put')).on('delete', note('delete'));
  });
  await client.put('js/w/1').value('one');
  await client.delete().key('js/w/1');
  assert.deepStrictEqual(await seen, ['put js/w/1', 'delete js/w/1']);
  await watcher.cancel();
}

async function leasesAndLocks() {
  const lease = client.lease(10);
  await lease.put('js/l').value('leased');
  await lease.keepaliveOnce();
  assert.strictEqual(await client.get('js/l').string(), 'leased');
  await lease.revoke();
  assert.strictEqual(await client.get('js/l').string(), null);
  const lock = client.lock('js-lock');
  await lock.acquire();
  await assert.rejects(client.lock('js-lock').acquire());
  await lock.release();
  await client.lock('js-lock').do(async () => {});
}

async function elections() {
  const election = client.election('js-election');
  const campaign = election.campaign('me');
  await new Promise((resolve, reject) => campaign.on('elected', resolve).on('error', reject));
  assert.strictEqual(await election.leader(), 'me');
  await campaign.proclaim('me again');
  assert.strictEqual(await election.leader(), 'me again');
  await campaign.resign();
}

async function users() {
  const root = client.user('root');
  await root.create('secret');
  const role = client.role('root');
  await role.create().catch(() => {});
  await root.addRole('root');
  const mine = client.role('js-mine');
  await mine.create();
  await mine.grant({ permission: 'Readwrite', range: client.range({ prefix: 'js/' }) });
  const user = client.user('js-user');
  await user.create('word');
  await user.addRole('js-mine');
  await client.auth.authEnable();
  const signedIn = new Etcd3({ hosts, auth: { username: 'js-user', password: 'word' } });
  const byRoot = new Etcd3({ hosts, auth: { username: 'root', password: 'secret' } });
  try {
    await signedIn.put('js/mine').value('1');
    assert.strictEqual(await signedIn.get('js/mine').string(), '1');
    await assert.rejects(signedIn.put('foreign').value('1'), /permission denied/);
    await assert.rejects(client.get('js/mine').string(), /user name is empty/);
    const wrong = new Etcd3({ hosts, auth: { username: 'js-user', password: 'no' } });
    await assert.rejects(wrong.get('js/mine').string(), /invalid user ID or password/);
    wrong.close();
    assert.strictEqual((await byRoot.getRoles()).length, 2);
  } finally {
    await byRoot.auth.authDisable();
    signedIn.close();
    byRoot.close();
  }
  await user.delete();
  await root.delete();
}

(async () => {
  for (const work of [keys, transactions, watches, leasesAndLocks, elections, users]) {
    await work();
    console.log('ok:', work.name);
  }
  client.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
