"""What python-etcd3 promises its users, against the server at ETCD_HOST:ETCD_PORT."""

import os
import threading

import etcd3

HOST, PORT = os.environ["ETCD_HOST"], int(os.environ["ETCD_PORT"])


def connect(**settings):
    return etcd3.client(host=HOST, port=PORT, timeout=10, **settings)


client = connect()


def keys_and_ranges():
    client.delete_prefix("py/")
    for name in "abc":
        client.put(f"py/{name}", f"value {name}")
    value, meta = client.get("py/b")
    assert value == b"value b" and meta.key == b"py/b" and meta.version == 1, (value, meta)
    assert client.get("py/nothing") == (None, None)
    values = [value for value, _ in client.get_prefix("py/", sort_order="descend")]
    assert values == [b"value c", b"value b", b"value a"], values
    assert [m.key for _, m in client.get_prefix("py/", keys_only=True)] == [b"py/a", b"py/b", b"py/c"]
    assert [value for value, _ in client.get_range("py/a", "py/c")] == [b"value a", b"value b"]
    old = client.put("py/a", "again", prev_kv=True).prev_kv
    assert old.value == b"value a", old
    assert client.put_if_not_exists("py/a", "never") is False
    assert client.replace("py/a", "again", "replaced") is True
    assert client.delete("py/a") is True and client.delete("py/a") is False
    assert client.delete_prefix("py/").deleted == 2


def transactions():
    client.put("py/t", "1")
    done, answers = client.transaction(
        compare=[client.transactions.value("py/t") == "1", client.transactions.version("py/t") > 0],
        success=[client.transactions.put("py/t", "2"), client.transactions.get("py/t")],
        failure=[client.transactions.delete("py/t")],
    )
    assert done and answers[1][0][0] == b"2", answers
    done, _ = client.transaction(
        compare=[client.transactions.create("py/t") == 0], success=[], failure=[]
    )
    assert not done


def watches():
    seen, all_seen = [], threading.Event()

    def note(answer):
        seen.extend((type(event).__name__, event.key, event.value) for event in answer.events)
        if len(seen) == 3:
            all_seen.set()

    watcher = client.add_watch_prefix_callback("py/w/", note)
    client.put("py/w/1", "one")
    client.put("py/w/2", "two")
    client.delete("py/w/1")
    assert all_seen.wait(10), seen
    client.cancel_watch(watcher)
    assert seen == [
        ("PutEvent", b"py/w/1", b"one"),
        ("PutEvent", b"py/w/2", b"two"),
        ("DeleteEvent", b"py/w/1", b""),
    ], seen
    begin = client.put("py/w/past", "1").header.revision
    client.put("py/w/past", "2")
    events, cancel = client.watch("py/w/past", start_revision=begin)
    assert [next(events).value for _ in range(2)] == [b"1", b"2"]
    cancel()
    client.compact(begin + 1)
    events, cancel = client.watch("py/w/past", start_revision=1)
    try:
        next(events)
        raise AssertionError("a compacted revision was watched")
    except etcd3.exceptions.RevisionCompactedError as error:
        assert error.compacted_revision == begin + 1, error.compacted_revision


def leases_and_locks():
    lease = client.lease(60)
    client.put("py/l", "leased", lease)
    assert lease.granted_ttl == 60 and 0 < lease.remaining_ttl <= 60
    assert list(lease.keys) == [b"py/l"]
    assert list(lease.refresh())[0].TTL == 60
    lease.revoke()
    assert client.get("py/l") == (None, None)
    with client.lock("py-lock", ttl=20) as lock:
        assert lock.is_acquired()
        assert not client.lock("py-lock", ttl=20).acquire(timeout=1)
    assert client.lock("py-lock", ttl=20).acquire(timeout=5)


def members_and_upkeep():
    status = client.status()
    assert status.version.startswith("3.") and status.leader.id, status
    members = list(client.members)
    assert len(members) == 1 and members[0].client_urls, members
    assert list(client.list_alarms()) == []
    client.create_alarm()
    try:
        client.put("py/full", "x")
        raise AssertionError("a put with alarm NOSPACE")
    except Exception as error:  # it hands gRPC's own error on
        assert "database space exceeded" in str(error), error
    client.disarm_alarm()
    client.put("py/full", "x")
    client.defragment()
    assert client.hash() != 0
    with open(os.path.join(os.environ["TMP"], "py.snapshot"), "wb") as file:
        client.snapshot(file)
        assert file.tell() > 4096


for work in (keys_and_ranges, transactions, watches, leases_and_locks, members_and_upkeep):
    work()
    print("ok:", work.__name__)
