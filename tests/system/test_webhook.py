"""Events told to URLs: in order, with retries, without holding up anything."""

import http.server
import json
import ssl
import threading

import pytest

from harness import wait_until


class Receiver:
    """A server that keeps what it is sent; `answers` are the statuses of the next requests, then always 200."""

    def __init__(self, context=None):
        self.told, self.answers, self.headers, self.hang = [], [], [], threading.Event()
        self.hang.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                outer.hang.wait(30)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = outer.answers.pop(0) if outer.answers else 200
                outer.headers.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                if status == 200:
                    outer.told.append(body)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def events(self):
        """The names of the events that were accepted."""
        return [body["event"] for body in self.told]

    def close(self):
        """Ends it."""
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver():
    """One in clear text."""
    made = Receiver()
    yield made
    made.close()


def test_events_arrive_in_order_and_can_be_read(start_forebay, receiver):
    forebay = start_forebay(config={"notify": {"webhook": [f"http://127.0.0.1:{receiver.port}/T0/hidden?a=b"]}})
    forebay.admin("PAUSE FAILOVER main")
    forebay.admin("RESUME FAILOVER main")
    wait_until(lambda: "failover_resumed" in receiver.events(), 10, "the events")
    told = receiver.told[receiver.events().index("failover_paused")]
    assert told["service"] == "main" and "admin" in told["detail"] and told["text"].startswith("forebay main: failover_paused: ")
    assert told["time"] > 1_700_000_000
    assert [body["sequence"] for body in receiver.told] == sorted(body["sequence"] for body in receiver.told)
    recorded = [row["event"] for row in forebay.admin("SHOW EVENTS")]
    assert receiver.events() == recorded[-len(receiver.events()):]
    path, headers = receiver.headers[0]
    assert path == "/T0/hidden?a=b" and headers["content-type"] == "application/json"
    assert "hidden" not in forebay.log() and "hidden" not in str(forebay.admin("SHOW CONFIG"))


def test_what_cannot_be_delivered_is_tried_again(start_forebay, receiver):
    receiver.answers = [500, 503, 429]
    forebay = start_forebay(config={"notify": {"webhook": [f"http://127.0.0.1:{receiver.port}/"], "events": ["failover_paused"]}})
    forebay.admin("PAUSE FAILOVER main")
    wait_until(lambda: receiver.events() == ["failover_paused"], 15, "the event")
    assert len(receiver.headers) == 4
    assert "a webhook takes no event now" in forebay.log()
    wait_until(lambda: "a webhook answers again" in forebay.log(), 10, "the log to say so")


def test_what_is_refused_for_good_is_not_sent_again(start_forebay, receiver):
    receiver.answers = [400]
    forebay = start_forebay(
        config={"notify": {"webhook": [f"http://127.0.0.1:{receiver.port}/"], "events": ["failover_paused", "failover_resumed"]}})
    forebay.admin("PAUSE FAILOVER main")
    forebay.admin("RESUME FAILOVER main")
    wait_until(lambda: receiver.events() == ["failover_resumed"], 10, "the next event")
    assert len(receiver.headers) == 2
    wait_until(lambda: "a webhook refuses an event" in forebay.log(), 10, "the log to say so")


def test_a_receiver_that_hangs_holds_up_nobody(start_forebay, receiver):
    slow = Receiver()
    slow.hang.clear()
    try:
        forebay = start_forebay(
            config={"notify": {"webhook": [f"http://127.0.0.1:{slow.port}/", f"http://127.0.0.1:{receiver.port}/",
                                           "http://127.0.0.1:1/"]}})
        for _ in range(3):
            forebay.admin("SET WEIGHT pg2 = 1")
        wait_until(lambda: receiver.events().count("weight_set") == 3, 10, "the events at the other one")
        with forebay.connect() as client:
            assert client.execute("select 1").fetchone()
        assert slow.told == []
        slow.hang.set()
        wait_until(lambda: slow.events().count("weight_set") == 3, 15, "the events at the slow one")
    finally:
        slow.close()


def test_certificates_are_checked(start_forebay, authority):
    certificate, key = authority.sign("hooks")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    receiver = Receiver(context)
    url = f"https://localhost:{receiver.port}/"
    try:
        forebay = start_forebay(config={"notify": {"webhook": [url], "tls": {"ca": str(authority.file)}}})
        wait_until(lambda: "primary_found" in receiver.events(), 10, "the events over TLS")
        before = len(receiver.headers)
        stranger = start_forebay(config={"notify": {"webhook": [url]}})
        wait_until(lambda: "a webhook" in stranger.log(), 10, "the refusal of an unknown authority")
        assert len(receiver.headers) == before
        forebay.assert_sound()
    finally:
        receiver.close()


def test_a_reload_takes_another_url(start_forebay, receiver):
    forebay = start_forebay()
    forebay.write({**forebay.config, "notify": {"webhook": [f"http://127.0.0.1:{receiver.port}/"]}})
    forebay.admin("RELOAD")
    wait_until(lambda: "reloaded" in receiver.events(), 10, "the event of the reload itself")
