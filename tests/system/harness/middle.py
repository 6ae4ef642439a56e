"""Somebody in the middle of an encrypted connection to PostgreSQL: with a certificate of his own, reading along."""

import contextlib
import select
import socket
import ssl
import struct
import threading

from harness import ports, rundir

SSL_REQUEST = struct.pack("!II", 8, 80877103)


def _offer(*mechanisms):
    """AuthenticationSASL"""
    body = struct.pack("!I", 10) + b"".join(name + b"\0" for name in mechanisms) + b"\0"
    return b"R" + struct.pack("!I", len(body) + 4) + body


BOTH = _offer(b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256")
WITHOUT_BINDING = _offer(b"SCRAM-SHA-256")


class Middle:
    """Ends the client's TLS with `files` (certificate and key), begins his own with 127.0.0.1:`target`, and passes everything on.

    With `hides_binding` he takes SCRAM-SHA-256-PLUS out of the offer. `heard` is what clients said to him.
    """

    def __init__(self, target, files, hides_binding=False):
        self.target, self.hides_binding, self.heard = target, hides_binding, []
        self.port = ports.free_port()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*map(str, files))
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self._ends = []
        rundir.LIVE.append(self)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._stand_between, args=(client,), daemon=True).start()

    def _stand_between(self, client):
        with contextlib.suppress(OSError, ValueError):
            if client.recv(8, socket.MSG_WAITALL) != SSL_REQUEST:
                return client.close()
            client.sendall(b"S")
            client = self._context.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self.target), 5)
            server.settimeout(None)
            server.sendall(SSL_REQUEST)
            assert server.recv(1) == b"S"
            believing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            believing.check_hostname, believing.verify_mode = False, ssl.CERT_NONE
            server = believing.wrap_socket(server)
            self._ends += [client, server]
            self._pass_on(client, server)

    def _pass_on(self, client, server):
        """By one thread: a connection of OpenSSL is not for two."""
        other = {client: server, server: client}
        try:
            while True:
                ready = [end for end in other if end.pending()] or select.select(list(other), [], [])[0]
                for end in ready:
                    # What has come may be for TLS itself, and nothing behind it.
                    end.setblocking(False)
                    try:
                        data = end.recv(65536)
                    except ssl.SSLWantReadError:
                        continue
                    finally:
                        end.setblocking(True)
                    if not data:
                        return
                    if end is client:
                        self.heard.append(data)
                    elif self.hides_binding:
                        data = data.replace(BOTH, WITHOUT_BINDING)
                    other[end].sendall(data)
        finally:
            for end in other:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def log_sections(self):
        """Nothing to tell."""
        return []

    def destroy(self):
        """Ends everything."""
        if self in rundir.LIVE:
            rundir.LIVE.remove(self)
        ports.release(self.port)
        for end in [self._listener, *self._ends]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
