"""What the client programs in Python share: the commands, records and output
that the Go package ../driver describes."""

import base64
import json
import sys
import threading
import time

BASE = 1_700_000_000_000
PARTITIONS = 3
UNSUPPORTED = 3  # exit code
NO = b"no"  # value of the records of aborted transactions
DEADLINE = time.monotonic() + 120


class Unsupported(Exception):
    """The client has no such feature."""


class Record:
    def __init__(self, partition, offset, timestamp, key, value, headers):
        self.partition, self.offset, self.timestamp = partition, offset, timestamp
        self.key, self.value, self.headers = key, value, headers

    def print(self):
        print(json.dumps({
            "partition": self.partition, "offset": self.offset, "timestamp": self.timestamp,
            "key": encode(self.key), "value": encode(self.value),
            "headers": [{"name": n, "value": encode(v)} for n, v in self.headers],
        }), flush=True)


def encode(b):
    return None if b is None else base64.b64encode(b).decode()


def make(i):
    """Record i as every client program writes it."""
    key = None if i % 10 == 3 else b"key-%d" % i
    value = None if i % 10 == 9 else ("wärve-%d " % i + "abcdefgh" * (i % 50 + 1)).encode()
    headers = [("n", b"%d" % i), ("twice", b"1"), ("twice", b"2"), ("bytes", bytes([255, 1, 2]))]
    return Record(i % PARTITIONS, i // PARTITIONS, BASE + i * 1000, key, value, headers)


def made(count):
    return [make(i) for i in range(count)]


def no():
    """What an aborted transaction writes."""
    return [Record(p, 0, BASE, None, NO, []) for p in range(PARTITIONS)]


def large(size):
    """The value of a large record."""
    period = bytes((i * 31 + (i >> 8) * 17) & 255 for i in range(1 << 16))
    return (period * (size // len(period) + 1))[:size]


def before_deadline():
    if time.monotonic() > DEADLINE:
        raise TimeoutError("not done in two minutes")
    return True


def rebalance(member, wake=lambda: None):
    """As driver.Rebalance in Go. member(stop, have) runs a member until the
    event stop is set, calling have(n) with its number of partitions. wake is
    called after stop is set."""
    counts, changed, errors = {}, threading.Condition(), []

    def start(name):
        stop = threading.Event()

        def have(n):
            with changed:
                counts[name] = n
                changed.notify_all()

        def run():
            try:
                member(stop, have)
            except Exception as e:  # told to the main thread
                errors.append(e)
            with changed:
                counts.pop(name, None)
                changed.notify_all()

        thread = threading.Thread(target=run)
        thread.start()
        return stop, thread

    def wait_for(*want):
        with changed:
            if not changed.wait_for(lambda: errors or sorted(counts.values()) == list(want), 60):
                raise TimeoutError(f"members have {sorted(counts.values())} partitions, want {want}")
        if errors:
            raise errors[0]

    members = [start("a")]
    try:
        wait_for(4)
        members.append(start("b"))
        wait_for(2, 2)
        members[1][0].set()
        wake()
        wait_for(4)
    finally:
        for stop, _ in members:
            stop.set()
        wake()
        for _, thread in members:
            thread.join()
    if errors:
        raise errors[0]


def main(client):
    command, args = sys.argv[2], sys.argv[3:]
    calls = {
        "version": lambda: print(client.version()),
        "produce": lambda topic, codec, count: client.produce(topic, codec, int(count), False),
        "idempotent": lambda topic, count: client.produce(topic, "none", int(count), True),
        "consume": lambda topic, count: client.consume(topic, int(count)),
        "seek": lambda topic, *offsets: client.seek(topic, [int(o) for o in offsets]),
        "group": client.group,
        "commit": lambda mode, topic, group, count: client.commit(mode, topic, group, int(count)),
        "large": lambda topic, size: client.large(topic, large(int(size))),
        "admin": client.admin,
        "transact": lambda given, topic, group, count: client.transact(given, topic, group, int(count)),
    }
    try:
        calls[command](*args)
    except Unsupported:
        sys.exit(UNSUPPORTED)
