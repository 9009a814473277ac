"""Runs LocalStack's Lambda functions as processes of this host that speak the
AWS Lambda Runtime API: no Docker, no sandbox, no memory limit.

provided.* runtimes start the package's bootstrap; nodejs* and python* start
the small shims beside this file with the host's node and python3.
"""

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from localstack import config
from localstack.services.lambda_.invocation.lambda_models import InvocationResult
from localstack.services.lambda_.invocation.runtime_executor import (
    LambdaRuntimeException,
    RuntimeExecutor,
)

HERE = Path(__file__).parent
INIT_SECONDS = 20


class RuntimeAPI(BaseHTTPRequestHandler):
    """The Runtime API of one executor (a class attribute of its subclass)."""

    executor = None
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *args):
        pass

    def answer(self, code, body=b"", headers=()):
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self):
        if not self.path.endswith("/runtime/invocation/next"):
            return self.answer(404)
        ex = self.executor
        ex.ready.set()
        item = ex.queue.get()
        if item is None:
            self.close_connection = True
            return None
        return self.answer(200, (item["payload"] or "").encode(), [
            ("Content-Type", "application/json"),
            ("Lambda-Runtime-Aws-Request-Id", item["invoke-id"]),
            ("Lambda-Runtime-Deadline-Ms", str(ex.deadline_ms)),
            ("Lambda-Runtime-Invoked-Function-Arn", item["invoked-function-arn"]),
            ("Lambda-Runtime-Trace-Id", item.get("trace-id", "")),
        ])

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        out = b""
        while n := int(self.rfile.readline().split(b";")[0], 16):
            out += self.rfile.read(n)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return out

    def do_POST(self):
        body, path, ex = self.body(), self.path.split("/"), self.executor
        if self.path.endswith("/runtime/init/error"):
            ex.init_error = body
            ex.ready.set()
        elif path[-1] in ("response", "error") and path[-2] in ex.pending:
            ex.pending.pop(path[-2]).put((body, path[-1] == "error"))
        self.answer(202, b'{"status":"OK"}', [("Content-Type", "application/json")])


class ProcessRuntimeExecutor(RuntimeExecutor):
    def __init__(self, id, function_version):
        super().__init__(id=id, function_version=function_version)
        self.proc = self.httpd = self.logfile = self.init_error = None
        self.queue, self.pending, self.ready = queue.Queue(), {}, threading.Event()
        self.deadline_ms = 0

    def start(self, env_vars):
        self.env_vars = env_vars
        self.logfile = tempfile.NamedTemporaryFile("w+b", prefix="lambda-", suffix=".log")
        handler = type("Handler", (RuntimeAPI,), {"executor": self})
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.httpd.daemon_threads = True
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()
        self.spawn()

    def command(self, code):
        runtime = self.function_version.config.runtime or ""
        if runtime.startswith(("provided", "go")):
            return [str(code / "bootstrap")]
        if runtime.startswith("nodejs"):
            return ["node", str(HERE / "node_shim.mjs")]
        if runtime.startswith("python"):
            return ["python3", str(HERE / "python_shim.py")]
        raise LambdaRuntimeException(f"runtime {runtime} is not supported on a host")

    def spawn(self):
        code = Path(self.function_version.config.code.get_unzipped_code_location())
        self.ready.clear()
        self.init_error, self.queue = None, queue.Queue()
        env = {"PATH": os.environ["PATH"], "HOME": tempfile.gettempdir(), "LANG": "C.UTF-8"}
        env.update({k: str(v) for k, v in self.env_vars.items()})
        env["LAMBDA_TASK_ROOT"] = str(code)
        env["AWS_LAMBDA_RUNTIME_API"] = f"127.0.0.1:{self.httpd.server_port}"
        self.proc = subprocess.Popen(
            self.command(code), cwd=code, env=env, stdin=subprocess.DEVNULL,
            stdout=self.logfile, stderr=subprocess.STDOUT, start_new_session=True,
        )
        end = time.time() + INIT_SECONDS
        while not self.ready.wait(0.01):
            if self.proc.poll() is not None:
                raise LambdaRuntimeException(f"bootstrap exited {self.proc.returncode} in init: {self.get_logs()[-2000:]}")
            if time.time() > end:
                raise LambdaRuntimeException("init timed out")
        if self.init_error:
            raise LambdaRuntimeException(f"init error: {self.init_error!r}")

    def kill(self):
        if self.proc and self.proc.poll() is None:
            try:
                os.killpg(self.proc.pid, signal.SIGKILL)  # its own session: only the function's processes
            except ProcessLookupError:
                pass
            self.proc.wait()
        self.queue.put(None)

    def stop(self):
        self.kill()
        if self.httpd:
            self.httpd.shutdown()
            self.httpd.server_close()
            self.httpd = None
        for result in list(self.pending.values()):
            result.put((b'{"errorMessage":"environment stopped"}', True))

    def get_address(self):
        return "127.0.0.1"

    def get_endpoint_from_executor(self):
        return "127.0.0.1"

    def get_runtime_endpoint(self):
        return f"http://127.0.0.1:{config.GATEWAY_LISTEN[0].port}/_localstack_lambda/{self.id}"

    def get_logs(self, offset=0):
        if not self.logfile:
            return ""
        with open(self.logfile.name, errors="replace") as f:
            f.seek(offset)
            return f.read()

    def invoke(self, payload):
        request = payload["invoke-id"]
        if self.proc is None or self.proc.poll() is not None:
            self.spawn()
        offset, begin = os.path.getsize(self.logfile.name), time.time()
        body, error = self.run(payload, begin)
        ms = (time.time() - begin) * 1000
        memory = self.function_version.config.memory_size
        logs = (
            f"START RequestId: {request} Version: {self.function_version.id.qualifier}\n{self.get_logs(offset)}"
            f"END RequestId: {request}\nREPORT RequestId: {request}\tDuration: {ms:.2f} ms\t"
            f"Billed Duration: {int(ms) + 1} ms\tMemory Size: {memory} MB\tMax Memory Used: {memory} MB\t\n"
        )
        return InvocationResult(request_id=request, payload=body, is_error=bool(error), logs=logs)

    def run(self, payload, begin):
        """Hands the payload to the process and waits for its answer, its end or the timeout."""
        request = payload["invoke-id"]
        timeout = self.function_version.config.timeout or 3
        self.deadline_ms = int((begin + timeout) * 1000)
        result = self.pending[request] = queue.Queue()
        self.queue.put(payload)
        try:
            while True:
                try:
                    return result.get(timeout=0.05)
                except queue.Empty:
                    pass
                if time.time() - begin > timeout:
                    self.kill()
                    return self.failure("Sandbox.Timedout", request, f"Task timed out after {timeout:.2f} seconds"), True
                if self.proc.poll() is not None:
                    return self.failure("Runtime.ExitError", request, f"Runtime exited with error: exit status {self.proc.returncode}"), True
        finally:
            self.pending.pop(request, None)

    @staticmethod
    def failure(kind, request, message):
        return json.dumps({"errorType": kind, "errorMessage": f"RequestId: {request} Error: {message}"}).encode()

    @classmethod
    def prepare_version(cls, function_version):
        if function_version.config.code:
            function_version.config.code.prepare_for_execution()

    @classmethod
    def cleanup_version(cls, function_version):
        pass

    @classmethod
    def validate_environment(cls):
        return True
