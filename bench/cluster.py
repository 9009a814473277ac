#!/usr/bin/env python3
"""Measures three Varve brokers on S3 and DynamoDB (versitygw and DynamoDB Local, on this machine) and three Apache Kafka nodes, one cluster after the other.

    bench/cluster.py [--only NAME ...] [--rounds N] [--kafka-rounds N] [--partitions N] [--seconds S] [--delay MS] [--logs DIR]

    kill      kill -9 of an owner: the longest that a record waits for its acknowledgement      Varve about 6 s a round, Kafka 35 s
    stop      SIGSTOP for longer than the session timeout                                       20 s a round, Kafka 40 s
    move      planned moves: of a slot, of all slots of a broker                                25 s, Kafka 30 s
    rolling   each broker in turn is stopped in order and started again                         30 s, Kafka 90 s
    latency   20 MB/s, acks=all, PUTs answered 25 ms later                                      3 x S, and 45 s
    rate      full rate against plain parallel PUTs of the same sizes                           2 x S, and 15 s
    requests  what is billed: per GiB, 1,000 offset commits, takeover, idle hour                S, and 90 s
    idle      10,000 partitions on one broker, 1,000 in a takeover: memory, writes, time        150 s

The client is loadgen (franz-go); its settings are printed. Compare what is beside each other: all depends on the machine and on what else runs.
"""
import argparse, datetime, json, os, re, shutil, signal, statistics, subprocess, sys, tempfile, time, traceback, urllib.request

from run import HERE, ROOT, rows, rss, show
from sides import BROKERS, VARVE, Kafka, Varve, folder

LOADGEN, PUTS = (os.path.join(ROOT, ".tools", n) for n in ("loadgen", "puts"))
SESSION = 6  # s, broker.session.timeout.ms by default
COLD = 5  # rounds of kill -9 in which DynamoDB Local's JVM compiles what moves slots: printed apart
CLIENT = {"linger": "2ms", "request_timeout": "600ms", "answer_timeout": "100ms", "metadata_max_age": "1s"}  # of what is measured in waits


def flags(kw):
    return [x for k, v in kw.items() for x in ("--" + k.replace("_", "-"), str(v))]


def loadgen(side, cmd, **kw):
    pids = ",".join(f"{n}:{p}" for n, p in enumerate(side.pids()))
    out = subprocess.run([LOADGEN, cmd, "--bootstrap", side.boot, "--pid", pids, *flags(kw)], capture_output=True, text=True, timeout=600)
    if out.returncode:
        raise RuntimeError(f"loadgen {cmd}: {out.stdout[-800:]} {out.stderr[-400:]}")
    return json.loads(out.stdout)


class Load:
    """Idempotent produce at a steady rate to all partitions, until it is ended."""

    def __init__(self, side, topic, a):
        self.side, self.topic, self.harms, self.logs = side, topic, [], a.logs
        self.log = tempfile.mktemp(prefix="varve-acked-", dir=os.path.join(ROOT, ".tools"))
        args = dict(topic=topic, partitions=a.partitions, replication=3, log=self.log, seconds=3600, timeout="2h", rate=a.record_rate, keys=8 * a.partitions, record_bytes=256, **CLIENT)
        self.proc = subprocess.Popen([LOADGEN, "survive", "--bootstrap", side.boot, *flags(args)], stdout=subprocess.PIPE, text=True)
        time.sleep(10)  # producers know all partitions, JVMs are warm

    def harm(self, what, do, settle=2.0):
        """Does something, and takes the time until a while behind it for what it has done."""
        begin = time.time()
        do()
        time.sleep(settle)
        self.harms.append((what, begin, time.time()))

    def end(self):
        """Returns the longest wait for each kind of harm, what records wait while nothing is done, and what else there is to say."""
        time.sleep(1)
        self.proc.send_signal(signal.SIGTERM)
        out = json.loads(self.proc.communicate(timeout=120)[0])
        back = subprocess.run([LOADGEN, "survive", "--mode", "verify", "--bootstrap", self.side.boot, "--topic", self.topic, "--log", self.log, "--settle", "1s"], capture_output=True, text=True, timeout=600)
        read = json.loads(back.stdout)
        waits, calm = {}, []  # calm: while nothing was done
        each = [[] for _ in self.harms]
        newest_first = list(enumerate(self.harms))[::-1]  # what is under way when harm is done is part of it
        with open(self.log) as f:
            for line in f:
                if not line.startswith("A "):
                    continue
                _, _, _, _, _, acked, sent = line.split()
                sent, wait = int(sent) / 1e9, (int(acked) - int(sent)) / 1e9
                for n, (_, begin, end) in newest_first:
                    if begin - 0.3 <= sent < end:
                        each[n].append(wait)
                        break
        for (what, _, _), ws in zip(self.harms, each):
            if what == "nothing":
                calm += ws
            waits.setdefault(what, []).append(max(ws, default=0))
        if self.logs:
            self.keep(each)
        os.remove(self.log)
        bad = {k: read.get(k) for k in ("lost", "duplicated", "reordered", "corrupted", "moved") if read.get(k)}
        return {"waits": waits, "p50": quantile(calm, 0.5), "p99": quantile(calm, 0.99), "failed": out["failed"], "errors": out.get("error_kinds"), "acked": out["acked"], "bad": bad}

    def keep(self, waits):
        """Keeps what the brokers said, and when which harm was done that had waits of so many seconds."""
        to = os.path.join(self.logs, self.side.name)
        os.makedirs(to, exist_ok=True)
        for path in self.side.logs():
            shutil.copy(path, to)
        with open(os.path.join(to, "harms.txt"), "w") as f:
            for (what, begin, _), ws in zip(self.harms, waits):
                print(datetime.datetime.fromtimestamp(begin).isoformat(timespec="milliseconds"), f"{max(ws, default=0):.2f} s", what, file=f)


def quantile(xs, q):
    return sorted(xs)[int(q * (len(xs) - 1))] if xs else 0


# ---- what clients feel ----


def kill(side, load, a):
    cold, rounds = (COLD, a.rounds) if side.name == "varve" else (1, a.kafka_rounds)
    for n in range(cold + rounds):
        i = n % BROKERS + 1
        load.harm("kill -9" if n >= cold else "kill -9, JVM cold", lambda: side.end(i, signal.SIGKILL), 2 if side.name == "varve" else 16)
        load.harm("start again", lambda: (side.start(i), side.settle()))


def stop(side, load, a):
    for n in range(a.stops if side.name == "varve" else 1):
        i = n % BROKERS + 1
        load.harm("SIGSTOP", lambda: side.signal(i, signal.SIGSTOP), SESSION + 4 if side.name == "varve" else 20)
        load.harm("SIGCONT", lambda: (side.signal(i, signal.SIGCONT), time.sleep(2), side.settle()))


def move(side, load, a):
    for n in range(a.moves if side.name == "varve" else 3):
        load.harm("move", lambda: side.move(load.topic, n % a.partitions, n % BROKERS + 1), 1)
    if side.name == "varve":
        load.harm("drain", lambda: side.drain(BROKERS))
        load.harm("drain", lambda: side.drain(BROKERS, undo=True))


def rolling(side, load, a):
    for i in range(1, BROKERS + 1):
        load.harm("rolling", lambda: (side.end(i, signal.SIGTERM), time.sleep(1), side.start(i), side.settle()))


HARMS = {"kill": kill, "stop": stop, "move": move, "rolling": rolling}
LIMITS = {"kill -9": 1, "SIGSTOP": SESSION + 1, "move": 0.3, "drain": 0.3, "rolling": 0.3}  # s


def harm(make, a):
    """Does all harm that was asked for to one cluster."""
    side, load = make(), None
    try:
        load = Load(side, "harms", a)
        load.harm("nothing", lambda: time.sleep(5), 0)
        for name in HARMS:
            if name in a.only:
                HARMS[name](side, load, a)
                print(f"  {side.name} {name}: done at {time.strftime('%X')}", flush=True)
        return load.end()
    finally:
        if load:
            load.proc.kill()
            load.proc.wait()
        side.stop()


def harms(a):
    print("client: loadgen survive, idempotent, acks=all, 256 B records, " + ", ".join(f"{k} {v}" for k, v in CLIENT.items()) + f", {a.record_rate} records/s to {a.partitions} partitions by key", flush=True)
    results = {}
    for make in (Varve, Kafka) if a.kafka_rounds else (Varve,):
        try:
            results[make.name] = harm(make, a)
        except Exception:
            if make is Varve:
                raise
            traceback.print_exc()  # Varve's figures stand
    v, k = results["varve"], results.get("kafka", {"waits": {}})
    for what, ws in v["waits"].items():
        theirs = k["waits"].get(what)
        beside = f"Kafka {max(theirs):.2f} s of {len(theirs)}" if theirs else "Kafka: -"
        limit = LIMITS.get(what)
        show(f"{what}: longest wait of {len(ws)}", f"{max(ws):.2f} s", f"<= {limit} s" if limit else "-", not limit or max(ws) <= limit, f"median {statistics.median(ws):.2f} s; {beside}")
    for name, r in results.items():
        show(f"{name}: records failed, lost, twice, out of order", f"{r['failed']}", "0", not r["failed"] and not r["bad"], f"of {r['acked']}; {r['errors'] or ''} {r['bad'] or ''} while nothing is done p50 {1000 * r['p50']:.0f} ms, p99 {1000 * r['p99']:.0f} ms")


# ---- latency and rate ----

PUT_OK = 'varve_s3_requests_total{request="PUT",result="ok"}'


def latency(a):
    for interval, p50, p99 in ((20, 60, 150), (100, 110, 200)):
        side = Varve(f"wal.interval.ms={interval}", delay=a.delay)
        try:
            loadgen(side, "produce-rate", topic="warm", rate=20000, seconds=8, partitions=12)
            before = side.metrics()
            # Five requests in flight are spread over the interval: docs/operations.md, "Other defaults".
            r = loadgen(side, "produce-rate", topic="latency", rate=20000, seconds=a.seconds, partitions=12, linger=f"{interval // 5}ms")
            after = side.metrics()
            puts, size = [after[n] - before.get(n, 0) for n in (PUT_OK, "varve_wal_bytes_total")]
            alone = plain(side, int(size / puts), 5, "--rate", str(puts / r["seconds"]), "--parallel", "64")
        finally:
            side.stop()
        for q, limit in (("p50_ms", p50), ("p99_ms", p99)):
            show(f"20 MB/s, PUTs {a.delay} ms later, interval {interval} ms: {q[:3]}", f"{r['ack_latency'][q]:.0f} ms", f"<= {limit} ms", r["ack_latency"][q] <= limit, f"linger {interval // 5} ms, plain PUTs {alone[q]:.0f} ms; {r['mb_s']:.1f} MB/s, {puts / r['seconds']:.1f} PUT/s of {size / puts / 1024:.0f} KiB, {cpus(r)}")
    if not a.kafka_rounds:
        return
    side = Kafka()
    try:
        loadgen(side, "produce-max", topic="warm", seconds=5, partitions=12, replication=3)
        r = loadgen(side, "produce-rate", topic="latency", rate=20000, seconds=a.seconds, partitions=12, replication=3)
    finally:
        side.stop()
    print(f"  Kafka, RF 3, its own disks: 20 MB/s p50 {r['ack_latency']['p50_ms']:.0f} ms, p99 {r['ack_latency']['p99_ms']:.0f} ms, {r['mb_s']:.1f} MB/s, {cpus(r)}", flush=True)


def plain(side, size, seconds, *flags):
    """Puts objects by a program that does nothing else."""
    out = subprocess.run([PUTS, "--bucket", "bench", "--bytes", str(size), "--duration", f"{seconds}s", *flags], env=side.env, capture_output=True, text=True, check=True, timeout=120).stdout
    return json.loads(out)


def cpus(r):
    return f"brokers {sum(p['cpu_s'] for n, p in r['procs'].items() if n != 'loadgen'):.1f} CPU-s"


def rate(a):
    """Full rate, and the same objects put by a program that does nothing else, in turns."""
    ours, plain_rates, sizes = [], [], []
    side = Varve(delay=a.delay)
    try:
        loadgen(side, "produce-max", topic="warm", seconds=3, partitions=12)
        for n in range(2):
            before = side.metrics()
            r = loadgen(side, "produce-max", topic=f"rate-{n}", seconds=a.seconds / 2, partitions=12, batch=262144)
            now = side.metrics()
            wal = [now[f"varve_wal_{x}_total"] - before[f"varve_wal_{x}_total"] for x in ("bytes", "objects")]
            sizes.append(int(wal[0] / wal[1])), ours.append(r["mb_s"])
            plain_rates.append(plain(side, sizes[-1], a.seconds / 2, "--parallel", str(4 * BROKERS))["mb_s"])
    finally:
        side.stop()
    share = statistics.median(ours) / statistics.median(plain_rates)
    show("full rate, of plain parallel PUTs", f"{100 * share:.0f} %", ">= 50 %", share >= 0.5, f"{ours} : {[round(p) for p in plain_rates]} MB/s, objects of {[s >> 10 for s in sizes]} KiB")


# ---- what is billed ----


def prices():
    """Returns the dollars of a request or unit, by the project's list."""
    with open(os.path.join(ROOT, "internal", "price", "price.go")) as f:
        return {m[1]: float(m[2]) / float(m[3] or 1) for m in re.finditer(r"\b((?:S3|DynamoDB)\w+)\s+= ([\d.]+)(?: / ([\d_]+))?", f.read())}


BILLED = {"S3Put": "PUT", "S3Get": "GET", "S3List": "LIST", "S3Delete": "DELETE", "DynamoDBWrite": "write units", "DynamoDBRead": "read units"}


def usage(m):
    u = {k: sum(v for s, v in m.items() if s.startswith(f'varve_s3_requests_total{{request="{BILLED[k]}"')) for k in ("S3Put", "S3Get", "S3List", "S3Delete")}
    return dict(u, DynamoDBWrite=m.get("varve_dynamodb_write_units_total", 0), DynamoDBRead=m.get("varve_dynamodb_read_units_total", 0))


def billed(name, before, now, times=1.0, less=None):
    """Prints what was used between two counts, scaled; less is taken off: what would have been used anyway."""
    u = {k: max(0, now[k] - before[k] - (less or {}).get(k, 0)) * times for k in BILLED}
    dollars = sum(u[k] * prices()[k] for k in BILLED)
    print(f"{name:58} " + ", ".join(f"{n:.0f} {BILLED[k]}" for k, n in u.items()) + f": ${dollars:.5f}", flush=True)
    return u


def requests(a):
    side = Varve()
    try:
        loadgen(side, "produce-rate", topic="billed", rate=5000, seconds=3, partitions=12, replication=3)
        time.sleep(5)
        begin, before = time.time(), usage(side.metrics())
        time.sleep(30)
        idle = {k: (v - before[k]) / (time.time() - begin) for k, v in usage(side.metrics()).items()}  # a second
        billed("an idle hour of three brokers", dict.fromkeys(BILLED, 0), idle, 3600)

        def during(do):
            t, u = time.time(), usage(side.metrics())
            result = do()
            return result, u, usage(side.metrics()), {k: v * (time.time() - t) for k, v in idle.items()}

        for mbs in (20, 5):
            r, u, now, less = during(lambda: loadgen(side, "produce-rate", topic="billed", rate=mbs * 1000, record_bytes=1000, seconds=a.seconds, partitions=12, replication=3))
            billed(f"a GiB at {mbs} MB/s, interval 100 ms", u, now, 2**30 / (r["records"] * 1000), less)
        r, u, now, less = during(lambda: loadgen(side, "commits", topic="billed", group="billed", count=200, partitions=12, replication=3))
        billed("1,000 offset commits of 12 partitions, one after the other", u, now, 1000 / r["commits"], less)
        side.end(3, signal.SIGKILL)
        u, t, marks = usage(side.metrics()), time.time(), side.marks()
        time.sleep(5)
        less = {k: v * (time.time() - t) * 2 / 3 for k, v in idle.items()}  # two are left
        billed("a takeover", u, usage(side.metrics()), 1, less)
        print(f"  slots taken, and in how many seconds: {side.taken(marks)}", flush=True)
    finally:
        side.stop()


# ---- very many partitions ----


def settled_rss(side):
    """Returns the RSS of brokers of which all slots are dormant, a minute later (Go gives memory back when it has not needed it for a while), and of what is in it what is in use; MiB."""
    for _ in range(120):
        time.sleep(1)
        m = side.metrics()
        if m["varve_slot_dormant"] == m["varve_slot_owned"]:
            break
    else:
        sys.exit("slots do not become dormant: %s" % {k: v for k, v in m.items() if k.startswith("varve_slot")})
    time.sleep(60)
    resident = max(rss(p) for p in side.pids())
    for _, http in side.ports.values():
        urllib.request.urlopen(f"http://127.0.0.1:{http}/debug/pprof/heap?gc=1", timeout=30).read()
    return resident, side.metrics()["go_memstats_heap_alloc_bytes"] / 2**20


def quiet_minute(side):
    """Returns the write units and S3 PUTs that nobody's asking for anything costs an hour, as 30 s of it tell."""
    time.sleep(5)
    u = usage(side.metrics())
    time.sleep(30)
    now = usage(side.metrics())
    return [120 * (now[k] - u[k]) for k in ("DynamoDBWrite", "S3Put")]


def fill(side, topics, partitions):
    """Makes topics, and writes a record to about each partition."""
    for t in range(topics):
        loadgen(side, "produce-max", topic=f"many-{t}", partitions=partitions, count=8 * partitions, keys=8 * partitions, record_bytes=128, replication=3)


def idle(a):
    side = Varve("cache.ram.bytes=1048576", "log.dormant.ms=10000", brokers=1)  # few of the records that were produced last: what partitions hold is measured here
    try:
        fill(side, 1, 10)
        (few, few_used), few_writes = settled_rss(side), quiet_minute(side)
        fill(side, 10, 1000)
        (many, many_used), many_writes = settled_rss(side), quiet_minute(side)
        show("10,000 partitions on one broker: heap in use", f"{many_used:.1f} MiB", "as with 10", many_used <= few_used + 2, f"{few_used:.1f} MiB with 10; RSS {many:.0f} and {few:.0f} MiB")
        grown = many_writes[0] - few_writes[0]
        show("catalogue writes an idle hour, 10,000 partitions", f"{many_writes[0]:.0f}", "as with 10", grown <= 0.1 * few_writes[0] + 240, f"{few_writes[0]:.0f} with 10; S3 PUTs {many_writes[1]:.0f} and {few_writes[1]:.0f}")
        side.end(1, signal.SIGKILL)
        begin, marks = time.time(), side.marks()
        side.start(1)
        show("start of that broker behind a kill -9", f"{time.time() - begin:.2f} s", "-", True, f"slots taken, in seconds: {side.taken(marks)}")
    finally:
        side.stop()
    side = Varve()
    try:
        times = []
        for partitions in (30, 3000):
            for t in range(max(1, partitions // 1000)):
                loadgen(side, "produce-max", topic=f"of-{partitions}-{t}", partitions=min(partitions, 1000), count=8 * partitions, keys=8 * partitions, record_bytes=128, replication=3)
            marks = side.marks()
            side.end(3, signal.SIGKILL)
            time.sleep(4)
            times.append(max((s for _, s in side.taken(marks)), default=float("nan")))
            side.start(3), side.settle()
        show("takeover of 1,000 partitions", f"{times[1]:.2f} s", "as of 10", times[1] <= 2 * times[0] + 0.25, f"{times[0]:.2f} s of 10: from reading the slots to serving")
    finally:
        side.stop()


SECTIONS = {"latency": latency, "rate": rate, "requests": requests, "idle": idle}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="*", default=[*HARMS, *SECTIONS])
    p.add_argument("--rounds", type=int, default=20, help="of kill -9, behind five with a cold JVM (20)")
    p.add_argument("--kafka-rounds", type=int, default=3, help="of kill -9 of a Kafka node, likewise (3; 0: no Kafka)")
    p.add_argument("--stops", type=int, default=3, help="of SIGSTOP (3)")
    p.add_argument("--moves", type=int, default=10, help="planned moves of a slot (10)")
    p.add_argument("--partitions", type=int, default=1000)
    p.add_argument("--record-rate", type=int, default=2000, help="records a second while harm is done (2000)")
    p.add_argument("--seconds", type=int, default=15, help="of a measurement (15)")
    p.add_argument("--delay", type=int, default=25, help="of S3's answers, in ms (25)")
    p.add_argument("--logs", help="a folder to keep the brokers' logs in, and each harm's time and longest wait")
    a = p.parse_args()
    for unknown in set(a.only) - {*HARMS, *SECTIONS}:
        p.error(f"no section {unknown}")
    subprocess.run(["go", "build", "-o", LOADGEN, "."], cwd=os.path.join(HERE, "loadgen"), check=True)
    subprocess.run(["go", "build", "-o", PUTS, "./bench/puts"], cwd=ROOT, check=True)
    if not os.path.exists(VARVE):
        p.error("bin/varve is not there: make build")
    print(f"load average {os.getloadavg()[0]:.2f}; objects under {folder()}", flush=True)
    if set(a.only) & set(HARMS):
        harms(a)
    for name, fn in SECTIONS.items():
        if name in a.only:
            begin = time.time()
            fn(a)
            print(f"  {name}: {time.time() - begin:.0f} s", flush=True)
    missed = [r[0] for r in rows if not r[3]]
    print(f"{len(rows) - len(missed)} of {len(rows)} figures reached" + ("; not yet: " + ", ".join(missed) if missed else ""))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped
    main()
