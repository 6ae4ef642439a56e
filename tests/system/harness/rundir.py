"""The directory of one test run, shared by all of its parallel workers, and what is alive in it.

The controlling pytest process creates it, exports its path, and removes it at the end. It lies in FOREBAY_TEST_DIR, else
where temporary files go: making a cluster is copying many small files, so that memory is much faster than most disks.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "FOREBAY_TEST_RUN"
BASE = Path(os.environ.get("FOREBAY_TEST_DIR") or tempfile.gettempdir())

# Everything started by this process and not stopped yet. Reports print its logs, the end of the run stops it.
LIVE = []


def create():
    """Makes the run's directory and exports it to the workers; removes those of runs that were killed."""
    for left in BASE.glob("forebay-test-*-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=f"forebay-test-{os.getpid()}-", dir=BASE))
    path.chmod(0o755)  # the servers run as another user
    os.environ[VARIABLE] = str(path)
    return path


def path():
    """The run's directory."""
    if VARIABLE not in os.environ:
        create()
    return Path(os.environ[VARIABLE])


def remove():
    """Removes the run's directory; called once by the controlling process."""
    shutil.rmtree(os.environ.pop(VARIABLE, "/nonexistent"), ignore_errors=True)


def folder(prefix):
    """A new directory for one server."""
    made = Path(tempfile.mkdtemp(prefix=prefix + "-", dir=path()))
    made.chmod(0o755)
    return made


@contextlib.contextmanager
def locked(name):
    """Only one worker at a time is inside, by `name`."""
    with open(path() / f"{name}.lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def stop_everything():
    """Ends what tests left behind, the latest first."""
    for thing in reversed(list(LIVE)):
        with contextlib.suppress(Exception):
            thing.destroy()


def logs(with_shared):
    """(title, text) of the tail of every live server's log; those that many tests share only if asked for."""
    def is_shared(thing):
        return getattr(thing, "name", "").startswith("shared")

    shown = [thing for thing in LIVE if with_shared or not is_shared(thing)]
    return [section for thing in shown for section in thing.log_sections()]


def tail(file, lines=60):
    """The last `lines` of a file as text."""
    try:
        data = Path(file).read_bytes()[-64 * 1024:]
    except OSError as problem:
        return f"({problem})"
    return "\n".join(data.decode("utf-8", "replace").splitlines()[-lines:])
