"""What LocalStack needs to run on a host, without Docker and on loopback only."""

from localstack.runtime.server.core import RuntimeServerPlugin
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin


class ProcessRuntimeExecutorPlugin(RuntimeExecutorPlugin):
    """LAMBDA_RUNTIME_EXECUTOR=process: functions are processes of this host."""

    name = "process"

    def load(self, *args, **kwargs):
        from varve_localstack.process_executor import ProcessRuntimeExecutor

        return ProcessRuntimeExecutor


class LoopbackServerPlugin(RuntimeServerPlugin):
    """GATEWAY_SERVER=loopback: the stock server listens on all addresses, whatever GATEWAY_LISTEN says."""

    name = "loopback"

    def load(self, *args, **kwargs):
        from localstack.runtime.server import twisted
        from twisted.internet import endpoints

        def on_loopback(reactor, port, *a, **kw):
            kw.setdefault("interface", "127.0.0.1")
            return endpoints.TCP4ServerEndpoint(reactor, port, *a, **kw)

        class Endpoints:
            TCP4ServerEndpoint = staticmethod(on_loopback)
            TCP6ServerEndpoint = endpoints.TCP6ServerEndpoint

        twisted.endpoints = Endpoints
        return twisted.TwistedRuntimeServer()
