"""Free loopback ports that two parallel workers never both take.

A port belongs to the process that holds the lock on its file; the lock goes with the process. The range lies below
Linux' ephemeral ports, so that no outgoing connection can take one between the check and the use.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

RANGE = range(20000, 32000)
_held = {}


def _lock_folder():
    folder = Path(tempfile.gettempdir()) / f"forebay-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def is_free(port):
    """Nobody listens on 127.0.0.1:`port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port():
    """A port that stays ours until this process ends or gives it back with `release`."""
    folder = _lock_folder()
    for port in random.sample(RANGE, len(RANGE)):
        if port in _held:
            continue
        file = open(folder / str(port), "w", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        if is_free(port):
            _held[port] = file
            return port
        file.close()
    raise AssertionError(f"no free port in {RANGE}")


def release(port):
    """Gives a port back."""
    file = _held.pop(port, None)
    if file:
        file.close()
