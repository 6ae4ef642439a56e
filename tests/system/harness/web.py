"""HTTP as a client of Forebay's admin listener speaks it: one request a connection, nothing followed, nothing retried."""

import base64
import http.client
import json
from dataclasses import dataclass


@dataclass
class Answer:
    """Status, headers (names in lower case) and body of an answer."""

    status: int
    headers: dict
    body: bytes

    @property
    def text(self):
        """The body as text."""
        return self.body.decode()

    @property
    def json(self):
        """The body as JSON."""
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.body)


def basic(user, password):
    """The header of HTTP's Basic authentication."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def ask(port, path, body=None, user=None, password=None, method=None, headers=None, host="127.0.0.1", tls=None, timeout=20):
    """One request; `user` with a password like the name unless told. `tls` is an `ssl.SSLContext`."""
    sent = {**(basic(user, user if password is None else password) if user else {}), **(headers or {})}
    if isinstance(body, dict):
        sent.setdefault("Content-Type", "application/json")
        body = json.dumps(body)
    if tls:
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=tls)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body=body, headers=sent)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()
