"""A TCP relay in front of a server that can be told to misbehave: stay silent, cut, or answer nonsense."""

import contextlib
import random
import socket
import struct
import threading
import time

from harness import ports, rundir

AGAIN = 0.2  # what Linux waits at least before it sends a piece again


class Relay:
    """Listens on a free port and relays to 127.0.0.1:`target`.

    `accepted` counts connections, and every answer takes `delay` seconds longer. `mode` may be changed at any time, for connections that exist as well:

    - `pass` relays;
    - `silent` takes bytes from both sides and relays none;
    - `keep` relays nothing and loses nothing, as a network that is cut for a while: what was sent arrives when the mode is
      another one again;
    - `refuse` closes each new connection at once;
    - `garbage` sends `junk` instead of what the server answers.

    Of a hundred pieces `lost_percent` are lost and sent again as TCP does it: each time after a longer while, and what comes
    behind them waits.

    What a client sends from a piece on that has `kept` in it is kept back as long as that is so; `has_kept` tells.
    """

    def __init__(self, target, mode="pass", junk=b"\xff\xfe\xfd not a frame \x00\x01\x02" * 4, delay=0.0):
        self.target, self.mode, self.junk, self.delay = target, mode, junk, delay
        self.accepted, self.lost_percent = 0, 0
        self.kept, self.has_kept = None, False
        self.port = ports.free_port()
        self._pairs, self._to_reset = [], set()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        rundir.LIVE.append(self)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self):
        """`host:port`"""
        return f"127.0.0.1:{self.port}"

    def _accept(self):
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            self.accepted += 1
            if self.mode == "refuse":
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target), 5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source, sink, is_answer):
        try:
            while data := source.recv(65536):
                if is_answer and self.delay:
                    time.sleep(self.delay)
                again = AGAIN
                while random.random() * 100 < self.lost_percent:
                    time.sleep(again)
                    again *= 2
                while self._keeps(data, is_answer):
                    time.sleep(0.002)
                if self.mode == "garbage" and is_answer:
                    sink.sendall(self.junk)
                elif self.mode != "silent":
                    sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.close() if end in self._to_reset else end.shutdown(socket.SHUT_RDWR)

    def _keeps(self, data, is_answer):
        is_meant = not is_answer and self.kept is not None and self.kept in data
        self.has_kept |= is_meant
        return (self.mode == "keep" or is_meant) and self in rundir.LIVE

    def cut(self, reset=False):
        """Closes every connection that is open; with `reset` both ends get an RST."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                if reset:
                    # Closed by the pump that this wakes: as long as one reads from it, nothing is sent.
                    with contextlib.suppress(OSError):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        self._to_reset.add(end)
                        end.shutdown(socket.SHUT_RD)
                    continue
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def log_sections(self):
        """Nothing to tell."""
        return []

    def destroy(self):
        """Stops listening and closes everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        ports.release(self.port)
        if self in rundir.LIVE:
            rundir.LIVE.remove(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.destroy()
