"""The two clusters that bench/cluster.py compares: three Varve brokers on versitygw and DynamoDB Local, and three Apache Kafka nodes."""
import glob, json, os, re, shutil, signal, socket, subprocess, tempfile, time, urllib.request

from run import ENV, HERE, ROOT, free_port

VARVE = os.path.join(ROOT, "bin", "varve")
AWS = os.path.join(ROOT, ".tools", "aws")
PEER = os.path.join(HERE, "kafka-peer.sh")
BROKERS = 3
MEMORY, ROOM = "/dev/shm", 12 << 30  # bytes: a run at full rate leaves 8 GiB


def until(what, done, seconds=300):
    end = time.time() + seconds
    while not done():
        if time.time() > end:
            raise TimeoutError(f"{what}: not in {seconds} s")
        time.sleep(0.05)


def answers(url):
    try:
        urllib.request.urlopen(url, timeout=5)
    except urllib.error.HTTPError as e:
        return e.code != 503  # of the stores any answer will do
    except OSError:
        return False
    return True


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def alive(proc):
    if proc.poll() is not None:
        raise RuntimeError(f"{' '.join(proc.args)} ended with {proc.returncode}")
    return True


def folder():
    """Returns the folder for what the stores keep."""
    free = shutil.disk_usage(MEMORY).free if os.path.isdir(MEMORY) else 0
    return MEMORY if free > ROOM else os.path.join(ROOT, ".tools")


class Varve:
    """Brokers with a bucket and a table of their own. delay is what an answer of S3 takes longer, in milliseconds. Objects lie in
    memory, as DynamoDB Local's items do, where there is some: what versitygw's files cost this machine would come on top."""

    name = "varve"

    def __init__(self, *config, brokers=BROKERS, delay=0):
        self.dir = tempfile.mkdtemp(prefix="varve-cluster-", dir=folder())
        self.servers, self.procs, self.config = [], {}, config
        self.ports = {i: (free_port(), free_port()) for i in range(1, brokers + 1)}
        self.boot = ",".join(f"127.0.0.1:{k}" for k, _ in self.ports.values())
        try:
            self.s3, ddb = self.objects(delay), self.table()
            self.env = dict(os.environ, AWS_ENDPOINT_URL_S3=self.s3, AWS_ENDPOINT_URL_DYNAMODB=ddb, AWS_REGION="us-east-1", AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true")
            for i in self.ports:
                self.start(i)
        except BaseException:
            self.stop()
            raise

    def serve(self, url, *args, env=None):
        log = open(os.path.join(self.dir, f"server-{len(self.servers)}.log"), "w")
        self.servers.append(subprocess.Popen(args, stdout=log, stderr=log, env=dict(os.environ, **(env or {})), cwd=self.dir))
        until(args[0], lambda: alive(self.servers[-1]) and answers(url))

    def objects(self, delay):
        at, data = f"127.0.0.1:{free_port()}", os.path.join(self.dir, "objects")
        side = os.path.join(self.dir, "metadata")
        os.makedirs(data), os.makedirs(side)
        self.serve(f"http://{at}", os.path.join(AWS, "bin", "versitygw"), "--port", at, "--keep-alive", "--quiet", "posix", "--sidecar", side, data, env={"ROOT_ACCESS_KEY": "test", "ROOT_SECRET_KEY": "test"})
        if not delay:
            return f"http://{at}"
        api, to = free_port(), f"127.0.0.1:{free_port()}"
        self.serve(f"http://127.0.0.1:{api}/version", os.path.join(AWS, "bin", "toxiproxy"), "-host", "127.0.0.1", "-port", str(api))
        for path, what in (("", {"name": "s3", "listen": to, "upstream": at, "enabled": True}), ("/s3/toxics", {"type": "latency", "stream": "downstream", "attributes": {"latency": delay}})):
            urllib.request.urlopen(f"http://127.0.0.1:{api}/proxies{path}", json.dumps(what).encode(), timeout=10)
        return f"http://{to}"

    def table(self):
        port, lib = free_port(), os.path.join(AWS, "ddb", "lib")
        self.serve(f"http://127.0.0.1:{port}", "java", "-Xmx512m", f"-Djava.library.path={lib}", "-cp", f"{AWS}/ddb/classes:{lib}/*", "LoopbackRunner", "-port", str(port), "-inMemory", "-sharedDb", "-disableTelemetry", env={"DDB_LOCAL_TELEMETRY": "0"})
        return f"http://127.0.0.1:{port}"

    def place(self):
        return ["--bucket", "bench", "--table", "bench"]

    def start(self, i):
        kafka, http = self.ports[i]
        args = [VARVE, "broker", *self.place(), "--create", "--id", str(i), "--data", os.path.join(self.dir, "disk"), "--listen", f"127.0.0.1:{kafka}", "--http", f"127.0.0.1:{http}"]
        for c in self.config:
            args += ["--config", c]
        self.procs[i] = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=open(self.log(i), "a"), env=self.env)
        until(f"broker {i}", lambda: alive(self.procs[i]) and answers(f"http://127.0.0.1:{http}/readyz"))

    def log(self, i):
        return os.path.join(self.dir, f"broker-{i}.log")

    def logs(self):
        return [self.log(i) for i in self.ports]

    def cli(self, *args):
        return subprocess.run([VARVE, *args, *self.place(), "--data", os.path.join(self.dir, "disk")], env=self.env, check=True, capture_output=True, text=True, timeout=120).stdout

    def settle(self):
        """Waits until each slot is where it should be."""

        def even():
            st = json.loads(self.cli("cluster", "status", "--json"))
            return not st["unowned"] and all(b["slots"] == b["target"] for b in st["brokers"]) and len(st["brokers"]) == len(self.procs)

        until("slots where they should be", even)

    def signal(self, i, sig):
        self.procs[i].send_signal(sig)

    def end(self, i, sig):
        """Sends a signal that ends a broker, and waits for that."""
        self.signal(i, sig)
        self.procs.pop(i).wait(timeout=120)

    def move(self, topic, partition, to):
        self.cli("cluster", "move", f"{topic}/{partition}", str(to))

    def drain(self, i, undo=False):
        self.cli("cluster", "drain", str(i), *(["--undo"] if undo else []))
        self.settle()

    def pids(self):
        return [p.pid for p in self.procs.values()]

    def taken(self, since):
        """Returns (slots, seconds) of the takeovers in the brokers' logs behind the sizes that marks() gave."""
        found = []
        for i in self.ports:
            with open(self.log(i)) as f:
                f.seek(since.get(i, 0))
                for m in re.finditer(r'msg="slots taken" taken=(\d+) .*?took=(\S+)', f.read()):
                    if int(m[1]):
                        found.append((int(m[1]), seconds(m[2])))
        return found

    def marks(self):
        return {i: os.path.getsize(self.log(i)) for i in self.ports if os.path.exists(self.log(i))}

    def metrics(self):
        """Returns all brokers' counters, added up by series."""
        total = {}
        for i in self.procs:
            for line in urllib.request.urlopen(f"http://127.0.0.1:{self.ports[i][1]}/metrics", timeout=30).read().decode().splitlines():
                if not line.startswith("#"):
                    series, _, value = line.rpartition(" ")
                    total[series] = total.get(series, 0) + float(value)
        return total

    def stop(self):
        for p in [*self.procs.values(), *reversed(self.servers)]:
            p.kill()
            p.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def seconds(s):
    """Returns the seconds of a Go duration."""
    unit = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}
    return sum(float(n) * unit[u] for n, u in re.findall(r"([\d.]+)(h|ms|µs|ns|m|s)", s))


class Kafka:
    """Nodes that are broker and controller, replication factor 3, min.insync.replicas 2."""

    name = "kafka"
    boot = ",".join(f"127.0.0.1:19{i}92" for i in range(1, BROKERS + 1))

    def __init__(self, heap="768M"):
        self.env = dict(ENV, KAFKA_HEAP_OPTS=f"-Xms256M -Xmx{heap}")
        os.makedirs(ENV["KAFKA_PEER_HOME"], exist_ok=True)
        self.peer("install")
        self.peer("stop")
        shutil.rmtree(os.path.join(ENV["KAFKA_PEER_HOME"], "data"), ignore_errors=True)
        try:
            self.peer("start3")
        except BaseException:
            self.stop()
            raise

    def peer(self, *args, check=True):
        return subprocess.run([PEER, *args], env=self.env, check=check, capture_output=True, text=True, timeout=300).stdout

    def tool(self, name, *args, check=True):
        return self.peer(name, "--bootstrap-server", self.boot, *args, check=check)

    def logs(self):
        return glob.glob(os.path.join(ENV["KAFKA_PEER_HOME"], "logs", "*.log"))

    def pid(self, i):
        return int(open(os.path.join(ENV["KAFKA_PEER_HOME"], "run", f"c{i}.pid")).read())

    def pids(self):
        return [self.pid(i) for i in range(1, BROKERS + 1)]

    def signal(self, i, sig):
        os.kill(self.pid(i), sig)

    def end(self, i, sig):
        pid = self.pid(i)
        os.kill(pid, sig)
        until(f"node {i} to end", lambda: not os.path.exists(f"/proc/{pid}") or open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z")

    def start(self, i):
        self.peer("start3-node", str(i), check=False)  # it waits a minute for the port
        until(f"node {i}", lambda: listens(19092 + 100 * i))

    def settle(self):
        """Waits until all replicas are in sync, and gives each partition its preferred leader."""
        until("replicas in sync", lambda: not self.tool("topics", "--describe", "--under-replicated-partitions").strip())
        self.tool("leader-election", "--election-type", "preferred", "--all-topic-partitions", check=False)  # fails where nothing is to be done

    def move(self, topic, partition, to):
        others = [i for i in range(1, BROKERS + 1) if i != to]
        plan = os.path.join(ENV["KAFKA_PEER_HOME"], "move.json")
        with open(plan, "w") as f:
            json.dump({"version": 1, "partitions": [{"topic": topic, "partition": partition, "replicas": [to, *others]}]}, f)
        self.tool("reassign", "--reassignment-json-file", plan, "--execute")
        self.tool("leader-election", "--election-type", "preferred", "--topic", topic, "--partition", str(partition), check=False)

    def stop(self):
        for i in range(1, BROKERS + 1):
            try:
                os.kill(self.pid(i), signal.SIGCONT)  # one that a failed run has left stopped
            except (OSError, ValueError):
                pass
        self.peer("stop", check=False)
        shutil.rmtree(os.path.join(ENV["KAFKA_PEER_HOME"], "data"), ignore_errors=True)
