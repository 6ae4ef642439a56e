"""Starting and ending processes together with their children."""

import contextlib
import os
import pwd
import shutil
import subprocess

import psutil

from harness.waiting import wait_until


def command_as(user, argv, death_signal=None):
    """`argv` wrapped so that it runs as `user` (if we are root) and gets `death_signal` when we die.

    The signal follows the thread that starts the process, so start servers from the main thread only.
    """
    options = []
    if user and os.geteuid() == 0:
        pwd.getpwnam(user)
        options += [f"--reuid={user}", f"--regid={user}", "--init-groups"]
    if death_signal:
        options += ["--pdeathsig", death_signal]
    return [shutil.which("setpriv") or "/usr/bin/setpriv", *options, "--", *map(str, argv)] if options else list(map(str, argv))


class Adopted(psutil.Process):
    """A process that somebody else has started."""

    returncode = 0

    def poll(self):
        """As of `subprocess.Popen`: None while it runs."""
        return None if self.is_running() and self.status() != psutil.STATUS_ZOMBIE else 0


def run_as(user, argv, **options):
    """Runs a command to its end; fails with its output."""
    done = subprocess.run(command_as(user, argv), capture_output=True, text=True, cwd="/", check=False, **options)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_all_as(user, commands):
    """Runs commands beside each other to their ends; fails with the output of the first that failed."""
    running = [(argv, subprocess.Popen(
        command_as(user, argv), cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)) for argv in commands]
    ended = [(argv, started.communicate()[0], started.returncode) for argv, started in running]
    for argv, said, code in ended:
        assert code == 0, f"{' '.join(map(str, argv))}: exit {code}\n{said}"


def family(pid):
    """The process and all that it started, it first."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_family(pid):
    """SIGKILL to a process and all that it started. The parent is frozen first, so that it starts nothing more."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).suspend()
    members = family(pid)
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    wait_until(lambda: all(map(_has_ended, members)), 10, f"process {pid} and its children to end", 0.005)


def _has_ended(member):
    # Orphans stay zombies until init reaps them, which may take a second; they hold nothing any more.
    try:
        return member.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def freeze_family(pid):
    """SIGSTOP to a process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).suspend()
    for member in family(pid)[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.suspend()


def thaw_family(pid):
    """SIGCONT to a process and all that it started."""
    for member in reversed(family(pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.resume()
