"""A collector of OpenTelemetry: takes OTLP over HTTP and keeps what the real definitions of its messages make of it."""

import http.server
import threading

from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

KINDS = trace_pb2.Span.SpanKind
ERROR = trace_pb2.Status.STATUS_CODE_ERROR


def value(any_value):
    """An attribute's value as Python has it."""
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(message):
    """The attributes of a span, a point or a resource."""
    return {pair.key: value(pair.value) for pair in message.attributes}


class Span:
    """A span that can be asked for its attributes."""

    def __init__(self, message, resource):
        self.message, self.attributes, self.resource = message, attributes(message), attributes(resource)
        self.name, self.kind = message.name, KINDS.Name(message.kind)
        self.trace, self.id, self.parent = message.trace_id.hex(), message.span_id.hex(), message.parent_span_id.hex()
        self.start, self.end = message.start_time_unix_nano, message.end_time_unix_nano
        self.failed = message.status.code == ERROR

    @property
    def ms(self):
        """How long it took."""
        return (self.end - self.start) / 1e6

    def __repr__(self):
        return f"<{self.name} {self.kind} {self.trace}/{self.id} below {self.parent} {self.ms} ms {self.attributes}>"


class Collector:
    """`answers` are the statuses of the next requests, then always 200; it says nothing while `hang` is not set."""

    def __init__(self, context=None, port=0, rejects=0):
        self.answers, self.requests, self.spans, self.exports, self.hang = [], [], [], [], threading.Event()
        self.hang.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.hang.wait(30)
                status = outer.answers.pop(0) if outer.answers else 200
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((self.path, status, headers, self.client_address[1]))
                answer = outer._take(self.path, body, rejects) if status == 200 else b""
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            allow_reuse_address = True

            def handle_error(self, *_):
                pass  # who gives up while it hangs

        self._server = Server(("127.0.0.1", port), Handler)
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _take(self, path, body, rejects):
        if path.endswith("/v1/traces"):
            request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
            for group in request.resource_spans:
                for scope in group.scope_spans:
                    assert scope.scope.name == "forebay"
                    self.spans += [Span(span, group.resource) for span in scope.spans]
            answer = trace_service_pb2.ExportTraceServiceResponse()
            answer.partial_success.rejected_spans = rejects
            return answer.SerializeToString()
        assert path.endswith("/v1/metrics"), path
        request = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
        [group] = request.resource_metrics
        [scope] = group.scope_metrics
        self.exports.append({metric.name: metric for metric in scope.metrics})
        return metrics_service_pb2.ExportMetricsServiceResponse().SerializeToString()

    @property
    def url(self):
        """For `telemetry.otlp`."""
        return f"http://127.0.0.1:{self.port}"

    def below(self, parent):
        """The spans below this one."""
        return [span for span in list(self.spans) if span.parent == parent]

    def close(self):
        """Ends it, and gives its port back."""
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()
