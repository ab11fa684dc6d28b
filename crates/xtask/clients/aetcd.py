"""What aetcd promises its users, against the server at ETCD_HOST:ETCD_PORT."""

import asyncio
import os

import aetcd

PLACE = {"host": os.environ["ETCD_HOST"], "port": int(os.environ["ETCD_PORT"])}


async def keys(client):
    await client.delete_prefix(b"ae/")
    await client.put(b"ae/a", b"1")
    await client.put(b"ae/b", b"2")
    got = await client.get(b"ae/a")
    assert got.value == b"1" and got.version == 1, got
    assert await client.get(b"ae/none") is None
    found = {kv.key: kv.value for kv in await client.get_prefix(b"ae/")}
    assert found == {b"ae/a": b"1", b"ae/b": b"2"}, found
    assert (await client.put(b"ae/a", b"3", prev_kv=True)).prev_kv.value == b"1"
    assert await client.replace(b"ae/a", b"3", b"4")
    assert not await client.replace(b"ae/a", b"3", b"5")
    deleted = await client.delete(b"ae/a", prev_kv=True)
    assert deleted.prev_kv.value == b"4", deleted
    assert (await client.delete_prefix(b"ae/")).deleted == 1


async def transactions(client):
    await client.put(b"ae/t", b"1")
    done, answers = await client.transaction(
        compare=[client.transactions.value(b"ae/t") == b"1"],
        success=[client.transactions.put(b"ae/t", b"2"), client.transactions.get(b"ae/t")],
        failure=[client.transactions.delete(b"ae/t")],
    )
    assert done and answers[1][0][0] == b"2", answers


async def watches(client):
    watch = await client.watch_prefix(b"ae/w/")
    await client.put(b"ae/w/1", b"one")
    await client.delete(b"ae/w/1")
    seen = []
    async for event in watch:
        seen.append((str(event.kind), event.kv.key))
        if len(seen) == 2:
            await watch.cancel()
            break
    assert seen == [("PUT", b"ae/w/1"), ("DELETE", b"ae/w/1")], seen


async def leases_and_locks(client):
    lease = await client.lease(60)
    await client.put(b"ae/l", b"leased", lease)
    assert (await lease.refresh()).TTL == 60
    assert 0 < await lease.remaining_ttl() <= 60
    await lease.revoke()
    assert await client.get(b"ae/l") is None
    async with client.lock(b"ae-lock", 20) as lock:
        assert await lock.is_acquired()


async def members(client):
    status = await client.status()
    assert status.version.startswith("3."), status
    assert [member async for member in client.members()]


async def run():
    async with aetcd.Client(**PLACE, timeout=10) as client:
        for work in (keys, transactions, watches, leases_and_locks, members):
            await work(client)
            print("ok:", work.__name__)


asyncio.run(run())
