#!/usr/bin/env python3
"""Measures Varve and one Apache Kafka node side by side, in turns, on this machine, and prints ratios.

    bench/run.py [--rounds N] [--seconds S] [--only NAME ...]

Kafka comes from Maven Central (kafka-peer.sh) and is warmed up first. The client is loadgen. Varve fsyncs, Kafka does not.
Compare the ratios: absolute figures depend on the machine and on what else runs, which is printed with them.
"""
import argparse, json, mmap, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
KAFKA = "127.0.0.1:19092"
ENV = dict(os.environ, KAFKA_PEER_HOME=os.path.join(ROOT, ".tools", "kafka-peer"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def cpu(pid):
    f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


def rss(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read()).group(1)) / 1024


def machine_cpu():
    return sum(int(x) for x in open("/proc/stat").readline().split()[1:4]) / os.sysconf("SC_CLK_TCK")


def loadgen(pid, boot, cmd, **flags):
    args = [os.path.join(ROOT, ".tools", "loadgen"), cmd, "--bootstrap", boot, "--pid", f"server:{pid}"]
    for k, v in flags.items():
        args += ["--" + k.replace("_", "-"), str(v)]
    os.sync()  # what one broker left to be written is not to be paid by the other
    others = machine_cpu()
    out = json.loads(subprocess.run(args, check=True, capture_output=True, text=True, timeout=300).stdout)
    used = out["procs"]["server"]["cpu_s"]
    out["others_cpu_s"] = machine_cpu() - others - used - out["procs"]["loadgen"]["cpu_s"]
    out["server_cpu_s"], out["rss"] = used, out["procs"]["server"]["rss_peak_mb"]
    out["gib"] = out["records"] * out.get("record_bytes", 1024) / 2**30
    return out


class Kafka:
    name = "kafka"

    def __init__(self):
        peer = os.path.join(HERE, "kafka-peer.sh")
        subprocess.run([peer, "install"], check=True, env=ENV, stdout=subprocess.DEVNULL)
        subprocess.run([peer, "stop"], env=ENV, stdout=subprocess.DEVNULL)
        shutil.rmtree(os.path.join(ENV["KAFKA_PEER_HOME"], "data"), ignore_errors=True)
        subprocess.run([peer, "start"], check=True, env=ENV, stdout=subprocess.DEVNULL)
        run = os.path.join(ENV["KAFKA_PEER_HOME"], "run")
        self.pid, self.boot = int(open(os.path.join(run, os.listdir(run)[0])).read()), KAFKA

    def stop(self):
        subprocess.run([os.path.join(HERE, "kafka-peer.sh"), "stop"], env=ENV, stdout=subprocess.DEVNULL)


class Varve:
    name = "varve"

    def __init__(self, *config):
        self.dir = tempfile.mkdtemp(prefix="varve-bench-", dir=os.path.join(ROOT, ".tools"))
        self.boot, self.http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        args = [os.path.join(ROOT, "bin", "varve"), "broker", "--data", self.dir, "--listen", self.boot, "--http", self.http, "--log-level", "warn"]
        for c in config:
            args += ["--config", c]
        self.begin = time.time()
        self.proc = subprocess.Popen(args, stdout=subprocess.DEVNULL)
        self.pid = self.proc.pid
        while True:
            try:
                urllib.request.urlopen(f"http://{self.http}/readyz")
                return
            except OSError:
                time.sleep(0.005)

    def sealed(self):
        out = subprocess.run([os.path.join(ROOT, "bin", "varve"), "segment", "list", "--data", self.dir, "--json"], check=True, capture_output=True, text=True).stdout
        rows = json.loads(out)
        return sum(r["records"] for r in rows), sum(r["size_bytes"] for r in rows), sum(r["raw_bytes"] for r in rows)

    def stop(self):
        self.proc.send_signal(signal.SIGKILL)
        self.proc.wait()
        shutil.rmtree(self.dir)


HELD = ("wal.checkpoint.bytes=1000000000000", "wal.checkpoint.objects=2000000000", "wal.backlog.max.bytes=1000000000000")
rows = []


def median(xs):
    return statistics.median(xs)


def show(name, value, bound, ok, detail=""):
    rows.append((name, value, bound, ok, detail))
    print(f"{name:58} {value:>9}  {bound:>10}  {'ok' if ok else 'NOT YET':8} {detail}", flush=True)


def produce(kafka, a, batch):
    name, ks, vs = f"produce, acks=all, {batch >> 10} KiB batches", [], []
    for i in range(a.rounds):
        for broker, into in ((kafka, ks), (None, vs)):
            b = broker or Varve(*HELD)
            into.append(loadgen(b.pid, b.boot, "produce-max", topic=f"p{batch}-{i}", seconds=a.seconds, batch=batch))
            if not broker:
                b.stop()
    rate, per = lambda rs: median([r["mb_s"] for r in rs]), lambda rs: median([r["server_cpu_s"] / r["gib"] for r in rs])
    others = max(r["others_cpu_s"] for r in ks + vs)
    show(name + ": MiB/s", f"{rate(vs) / rate(ks):.2f} x", ">= 1.5 x", rate(vs) >= 1.5 * rate(ks), f"{rate(vs):.0f} : {rate(ks):.0f}, others used {others:.1f} CPU-s")
    show(name + ": CPU/GiB", f"{per(vs) / per(ks):.2f} x", "<= 0.4 x", per(vs) <= 0.4 * per(ks), f"{per(vs):.2f} : {per(ks):.2f}")
    show("RSS while producing", f"{max(r['rss'] for r in vs) / max(r['rss'] for r in ks):.2f} x", "<= 0.25 x", max(r["rss"] for r in vs) <= 0.25 * max(r["rss"] for r in ks), f"{max(r['rss'] for r in vs)} : {max(r['rss'] for r in ks)} MiB")
    sealed = []
    for i in range(a.rounds):
        b = Varve("log.segment.bytes=67108864", "log.roll.ms=2000")
        before = cpu(b.pid)
        r = loadgen(b.pid, b.boot, "produce-max", topic=f"s{batch}-{i}", seconds=a.seconds, batch=batch)
        end = time.time() + 120
        while b.sealed()[0] < r["records"] and time.time() < end:
            time.sleep(0.5)
        n, size, raw = b.sealed()
        sealed.append(((cpu(b.pid) - before) / r["gib"], size / raw if raw else 1, n == r["records"]))
        b.stop()
    c = median([s[0] for s in sealed])
    show(name + ": CPU/GiB, sealing caught up", f"{c / per(ks):.2f} x", "<= 1.2 x", c <= 1.2 * per(ks) and all(s[2] for s in sealed), f"{c:.2f} : {per(ks):.2f}")
    at_rest = median([s[1] for s in sealed])
    show("bytes at rest, JSON-like, produced uncompressed", f"{at_rest:.2f} x", "<= 0.5 x", at_rest <= 0.5)


def disk(seconds, rate=160, size=128 << 10):
    """Returns p50 and p99 in ms of plain durable writes past the page cache, as many and as large as 20 MB/s are."""
    took, block = [], mmap.mmap(-1, size)
    with tempfile.NamedTemporaryFile(dir=os.path.join(ROOT, ".tools")) as f:
        fd = os.open(f.name, os.O_RDWR | os.O_DIRECT)
        os.posix_fallocate(fd, 0, size * rate * seconds)
        began = time.time()
        for i in range(rate * seconds):
            time.sleep(max(0, began + i / rate - time.time()))
            at = time.time()
            os.pwritev(fd, [block], i * size, os.RWF_DSYNC)
            took.append(1000 * (time.time() - at))
        os.close(fd)
    took.sort()
    return took[len(took) // 2], took[len(took) * 99 // 100]


def rate(kafka, a):
    ks, vs = [], []
    alone = disk(a.seconds)
    for i in range(a.rounds):
        v = Varve()
        for b, into in ((kafka, ks), (v, vs)):
            into.append(loadgen(b.pid, b.boot, "produce-rate", topic=f"r-{i}", rate=20000, seconds=a.seconds, batch=16384)["ack_latency"])
        v.stop()
    for q, bound in (("p50_ms", "2x, 2 ms"), ("p99_ms", "<= 0.5 x")):
        k, v = median([r[q] for r in ks]), median([r[q] for r in vs])
        show(f"fixed 20 MB/s, acks=all, 16 KiB batches: {q[:3]}", f"{v / max(k, 0.001):.2f} x", bound, v <= max(2 * k, 2) if q == "p50_ms" else v <= 0.5 * k, f"{v:.1f} : {k:.1f} ms; the disk's own {alone[q == 'p99_ms']:.1f}")


def consume(kafka, a):
    ks, hot, cold = [], [], []
    for i in range(a.rounds):
        v = Varve(*HELD)
        s = Varve("log.segment.bytes=67108864", "log.roll.ms=2000")
        n = {}
        for b in (kafka, v, s):
            n[b.boot] = loadgen(b.pid, b.boot, "produce-max", topic=f"c-{i}", seconds=a.seconds, batch=262144)["records"]
        end = time.time() + 120
        while s.sealed()[0] < n[s.boot] and time.time() < end:
            time.sleep(0.5)
        for b, into in ((kafka, ks), (v, hot), (s, cold)):
            into.append(loadgen(b.pid, b.boot, "consume-max", topic=f"c-{i}", seconds=30))
        v.stop(), s.stop()
    rate, per = lambda rs: median([r["mb_s"] for r in rs]), lambda rs: median([r["server_cpu_s"] / r["gib"] for r in rs])
    show("consume, hot: MiB/s", f"{rate(hot) / rate(ks):.2f} x", ">= 1.0 x", rate(hot) >= rate(ks), f"{rate(hot):.0f} : {rate(ks):.0f}")
    show("consume, hot: CPU/GiB", f"{per(hot) / per(ks):.2f} x", "<= 0.8 x", per(hot) <= 0.8 * per(ks), f"{per(hot):.2f} : {per(ks):.2f}")
    show("consume, cold, of Kafka's hot MiB/s", f"{rate(cold) / rate(ks):.2f} x", ">= 0.5 x", rate(cold) >= 0.5 * rate(ks), f"{rate(cold):.0f} : {rate(ks):.0f}, {per(cold):.2f} CPU-s/GiB")


def idle(kafka, a):
    starts = []
    for _ in range(max(a.rounds, 3)):
        v = Varve()
        subprocess.run([os.path.join(ROOT, "bin", "varve"), "produce", "first", "--bootstrap", v.boot], input=b"x\n", check=True, stdout=subprocess.DEVNULL)
        starts.append(time.time() - v.begin)
        time.sleep(2)
        mem = rss(v.pid)
        v.stop()
    kafka.stop()
    begin = time.time()
    k = Kafka()
    subprocess.run([os.path.join(ROOT, "bin", "varve"), "produce", "first", "--bootstrap", k.boot], input=b"x\n", check=True, stdout=subprocess.DEVNULL)
    took = time.time() - begin
    time.sleep(5)
    show("exec to first acknowledgement, empty directory", f"{median(starts) / took:.2f} x", "<= 0.15 x", median(starts) <= 0.15 * took, f"{median(starts):.2f} : {took:.2f} s")
    show("RSS idle", f"{mem / rss(k.pid):.2f} x", "<= 0.10 x", mem <= 0.10 * rss(k.pid), f"{mem:.0f} : {rss(k.pid):.0f} MiB")
    k.stop()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=int, default=10)
    p.add_argument("--only", nargs="*", default=["produce256", "produce16", "rate", "consume", "idle"])
    a = p.parse_args()
    os.makedirs(ENV["KAFKA_PEER_HOME"], exist_ok=True)
    subprocess.run(["go", "build", "-o", os.path.join(ROOT, ".tools", "loadgen"), "."], cwd=os.path.join(HERE, "loadgen"), check=True)
    print(f"load average {os.getloadavg()[0]:.2f}; {a.rounds} rounds of {a.seconds} s, in turns", flush=True)
    kafka = Kafka()
    try:
        loadgen(kafka.pid, kafka.boot, "produce-max", topic="warm-up", seconds=a.seconds, batch=65536)
        loadgen(kafka.pid, kafka.boot, "consume-max", topic="warm-up", seconds=a.seconds)
        for name, fn in (("produce256", lambda: produce(kafka, a, 262144)), ("produce16", lambda: produce(kafka, a, 16384)), ("rate", lambda: rate(kafka, a)), ("consume", lambda: consume(kafka, a)), ("idle", lambda: idle(kafka, a))):
            if name in a.only:
                fn()
    finally:
        kafka.stop()
    missed = [r[0] for r in rows if not r[3]]
    print(f"{len(rows) - len(missed)} of {len(rows)} figures reached" + ("; not yet: " + ", ".join(missed) if missed else ""))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped
    main()
