#!/usr/bin/env python3
"""Exhaustive check of the WAL, seal, takeover and trim protocol on small bounds.

One slot. Session A (may pause and wake at any step: it is simply not scheduled) writes WAL records 1..N with up to
two PUTs in flight; a PUT executes at any later time or never, its answer arrives at any later time or never, and A may
repeat a PUT whose answer it has not seen. A uploads segments, moves the slot's span forward, records in its session
item how far it will trim (its heartbeat carries that), and trims its WAL.
Session B suspects A at any time, fences, seals, takes the slot, absorbs the tail and sweeps A's WAL. While A keeps
winning the race for the next position, B may put seals further ahead, so that A comes to an end.

Checked in every reachable state: each record that A has acknowledged, or ever will, is covered by a registered
segment, or lies in the WAL where the owner of the slot will find it.

    fencing.py                 the design: no violation
    fencing.py RULE            the design without one rule: prints the shortest history that loses a record
"""
import sys
from collections import deque, namedtuple

RULES = {
    "keep-seals":      "a seal is never deleted",
    "record-trim":     "how far the WAL may be trimmed is recorded in the session item, on condition that the session is live, before anything is deleted",
    "fence-then-read": "sealing starts behind the trim recorded in the session item as the fence found it, not as read before",
    "check-slot":      "taking a slot, moving its span and registering a segment are conditional on the slot's item as its owner knows it",
    "in-order-acks":   "record n is acknowledged only when 1..n are durable",
    "recognise-own":   "a refused PUT counts as applied only if the object is the writer's own, not a seal",
    "trim-after-span": "a WAL object is deleted only when the span has moved past it",
    "stop-at-seal":    "recovery ends at the seal: what lies behind it is garbage",
}
N = 4

# wal: tuple of '-', 'r' (record), 'S' (seal) for seq 1..N+1
# put: per seq 0 not sent, 1 in flight, 2 executed, answer under way ok, 3 executed, refused, 4 answer seen ok (durable for A),
#      5 a seal seen there: A sends nothing new, but those before it may still land and count
S = namedtuple("S", "fenced sealed owner frm trim covered wal put acked bpc bfrom bpos rec")
INIT = S(False, 0, "A", 1, 0, 0, ("-",) * (N + 1), (0,) * N, 0, 0, 0, 0, 0)


def steps(s, off):
    put, wal = s.put, s.wal
    durable = 0
    while durable < N and put[durable] == 4:
        durable += 1
    top = durable if "in-order-acks" not in off else max([i + 1 for i in range(N) if put[i] == 4], default=0)
    inflight = sum(p in (1, 2, 3) for p in put)
    for i in range(N):
        q = i + 1
        if put[i] == 0 and inflight < 2 and 5 not in put and all(p for p in put[:i]):
            yield f"A sends PUT {q}", s._replace(put=put[:i] + (1,) + put[i + 1:])
        if put[i] == 2:
            yield f"A learns PUT {q} ok", s._replace(put=put[:i] + (4,) + put[i + 1:])
            # answer lost, A repeats it
            yield f"A repeats PUT {q}", s._replace(put=put[:i] + (1,) + put[i + 1:])
        if put[i] == 3:
            mine = wal[i] == "r"
            if mine or "recognise-own" in off:
                yield f"A reads {q} after a refusal: its own", s._replace(put=put[:i] + (4,) + put[i + 1:])
            elif wal[i] == "S":
                yield f"A finds the seal at {q}: sends nothing more", s._replace(put=put[:i] + (5,) + put[i + 1:])
            else:  # refused, then swept: unknown; A must not ack; it repeats
                yield f"A repeats PUT {q} (swept)", s._replace(put=put[:i] + (1,) + put[i + 1:])
    if top > s.acked:
        yield f"A acknowledges up to {top}", s._replace(acked=top)
    mine = s.owner == "A" or "check-slot" in off
    if mine and durable > s.covered:
        yield f"A registers a segment up to {durable}", s._replace(covered=durable, sealed=s.sealed if s.owner == "A" else -1)
    if mine and s.covered + 1 > s.frm:
        yield f"A moves the span to {s.covered + 1}", s._replace(frm=s.covered + 1)
    past = s.frm - 1 if "trim-after-span" not in off else durable
    if past > s.trim and not s.fenced:
        yield f"A's heartbeat records trim {past}", s._replace(trim=past)
    for i in range(s.trim if "record-trim" not in off else past):
        if wal[i] == "r":
            yield f"A trims {i + 1}", s._replace(wal=wal[:i] + ("-",) + wal[i + 1:])
    # the object store executes what is in flight whenever it likes, also after A has died
    for i in range(N):
        if put[i] == 1:
            if wal[i] == "-":
                yield f"store: PUT {i + 1} lands", s._replace(wal=wal[:i] + ("r",) + wal[i + 1:], put=put[:i] + (2,) + put[i + 1:])
            else:
                yield f"store: PUT {i + 1} refused ({wal[i]})", s._replace(put=put[:i] + (3,) + put[i + 1:])
    # B
    if s.bpc == 0:
        if "fence-then-read" in off:
            yield f"B reads the session item: trim {s.trim}", s._replace(bpc=1, bpos=s.trim + 1)
        else:
            yield f"B fences the session item, trim {s.trim}", s._replace(bpc=2, fenced=True, bpos=s.trim + 1)
    elif s.bpc == 1:
        yield "B fences the session item", s._replace(bpc=2, fenced=True)
    elif s.bpc == 2:
        i = s.bpos - 1
        if wal[i] == "-":
            yield f"B seals at {s.bpos}", s._replace(bpc=3, sealed=s.bpos, wal=wal[:i] + ("S",) + wal[i + 1:])
        elif wal[i] == "S":
            yield f"B finds a seal at {s.bpos}", s._replace(bpc=3, sealed=s.bpos)
        elif s.bpos <= N:
            yield f"B sees a record at {s.bpos}", s._replace(bpos=s.bpos + 1)
        for q in range(s.bpos + 1, N + 1):
            if wal[q - 1] == "-":
                yield f"B puts a stop at {q}, ahead of A", s._replace(wal=wal[:q - 1] + ("S",) + wal[q:])
    elif s.bpc == 3:
        end = s.sealed - 1
        if "stop-at-seal" in off:
            end = max([i + 1 for i in range(N) if wal[i] == "r"], default=end)
        if s.bfrom == 0 or (s.bfrom != s.frm and "check-slot" not in off):
            yield f"B reads the slot: span from {s.frm}", s._replace(bfrom=s.frm)
        else:
            got = s.bfrom - 1
            while got < end and (wal[got] == "r" or "stop-at-seal" in off):
                got += 1
            yield f"B takes the slot, replays {s.bfrom}..{got}", s._replace(bpc=4, owner="B", rec=got)
    elif s.bpc == 4:
        yield "B has uploaded the tail", s._replace(bpc=5, covered=max(s.covered, s.rec))
    elif s.bpc == 5:
        for i in range(N + 1):
            if wal[i] == "r" or (wal[i] == "S" and "keep-seals" in off):
                yield f"B sweeps {i + 1}", s._replace(wal=wal[:i] + ("-",) + wal[i + 1:])


def bad(s, off):
    if s.owner == "A":
        for q in range(s.covered + 1, s.acked + 1):
            if s.wal[q - 1] != "r":
                return f"acknowledged record {q} is nowhere"
        if s.bpc == 3 and s.acked > s.sealed - 1:
            return f"record {s.acked} acknowledged, sealed at {s.sealed}"
        return None
    if s.sealed < 0:
        return "the old owner registered a segment after the new one took the slot: two histories in the catalogue"
    if s.acked > s.rec:
        return f"record {s.acked} acknowledged, the new owner goes on after {s.rec}"
    if s.rec > s.sealed - 1:
        return f"the new owner took record {s.rec} from behind the seal at {s.sealed}: a hole below it, or one that A fails to its client"
    return None


def check(off):
    seen, queue = {INIT: None}, deque([INIT])
    while queue:
        s = queue.popleft()
        why = bad(s, off)
        if why:
            path = []
            while seen[s]:
                s, label = seen[s]
                path.append(label)
            return len(seen), why, path[::-1]
        for label, t in steps(s, off):
            if t not in seen:
                seen[t] = (s, label)
                queue.append(t)
    return len(seen), None, []


if __name__ == "__main__":
    off = set(sys.argv[1:])
    unknown = off - RULES.keys()
    if unknown:
        sys.exit(f"rules: {', '.join(RULES)}")
    n, why, path = check(off)
    print(f"{n} states; " + (f"VIOLATION: {why}" if why else "no violation"))
    for label in path:
        print("  " + label)
    sys.exit(1 if why else 0)
