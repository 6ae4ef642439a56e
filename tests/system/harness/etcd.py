"""etcd: members that tests may kill and freeze, and the way to them that can be cut for one instance of Forebay."""

import base64
import json
import os
import signal
import subprocess

from harness import ports, process, rundir
from harness.relay import Relay
from harness.waiting import wait_until

# A new leader within half a second, and leases of one second and more.
PACE = ["--heartbeat-interval", "50", "--election-timeout", "300"]


class Member:
    """One process of etcd."""

    def __init__(self, name, folder, authority=None):
        self.name, self.folder = name, folder / name
        self._tls = []
        if authority:
            certificate, key = authority.sign("etcd", "IP:127.0.0.1", 2)
            self._tls = ["--cert-file", certificate, "--key-file", key]
        self.client_port, self.peer_port = ports.free_port(), ports.free_port()
        self.log_file = folder / f"{name}.log"
        self._process = None

    @property
    def url(self):
        """Where clients reach it."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.client_port}"

    @property
    def peer_url(self):
        """Where the other members reach it."""
        return f"http://127.0.0.1:{self.peer_port}"

    def start(self, cluster):
        """Starts it, again if it has ended; `cluster` names all members."""
        command = [
            "etcd", "--name", self.name, "--data-dir", self.folder, *PACE, *self._tls, "--unsafe-no-fsync", "--logger", "zap",
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
            "--initial-cluster", cluster, "--initial-cluster-state", "new", "--initial-cluster-token", str(self.folder.parent)]
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                process.command_as(None, command, "KILL"), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.folder.parent, start_new_session=True, env={**os.environ, "ETCD_UNSUPPORTED_ARCH": "arm64"})

    def signal(self, number):
        """Sends it a signal, such as SIGSTOP."""
        self._process.send_signal(number)

    def kill(self):
        """SIGKILL, and waits for the end."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Etcd:
    """A group of etcd, with an empty store."""

    def __init__(self, members=3, authority=None):
        self.folder = rundir.folder("etcd")
        self.members = [Member(f"etcd{number + 1}", self.folder, authority) for number in range(members)]
        self._login = []
        if authority:
            self._login = ["--cacert", authority.file]
        self._cluster = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        rundir.LIVE.append(self)
        for member in self.members:
            member.start(self._cluster)
        wait_until(self.is_healthy, 30, "etcd to have a leader", 0.05)

    def start(self, member):
        """Starts a member again."""
        member.start(self._cluster)

    def ctl(self, *arguments, value=None):
        """etcdctl, asking whichever member answers."""
        urls = ",".join(member.url for member in self.members)
        done = subprocess.run(
            ["etcdctl", "--endpoints", urls, "--command-timeout=2s", "--dial-timeout=1s", *self._login, *arguments], input=value,
            capture_output=True, text=True, check=False, env={**os.environ, "ETCDCTL_API": "3"})
        return done.stdout if done.returncode == 0 else None

    def is_healthy(self):
        """Most members agree."""
        return self.ctl("put", "/healthy", "yes") is not None

    def get(self, key):
        """The value of a key; None if there is none."""
        found = json.loads(self.ctl("get", key, "-w", "json"))
        return base64.b64decode(found["kvs"][0]["value"]).decode() if found.get("kvs") else None

    def keys(self, prefix):
        """All keys that begin so."""
        return self.ctl("get", "--prefix", "--keys-only", prefix).split()

    def log_sections(self):
        """For reports of failed tests."""
        return [(f"log of {member.name}", rundir.tail(member.log_file, 10)) for member in self.members]

    def destroy(self):
        """Ends everything."""
        for member in self.members:
            member.kill()
        if self in rundir.LIVE:
            rundir.LIVE.remove(self)


class Way:
    """How one instance reaches etcd: a relay for each member."""

    def __init__(self, etcd):
        self.relays = [Relay(member.client_port) for member in etcd.members]

    @property
    def urls(self):
        """For `coordination.etcd`."""
        return [f"http://{relay.address}" for relay in self.relays]

    def set(self, mode):
        """See `Relay.mode`."""
        for relay in self.relays:
            relay.mode = mode

    def destroy(self):
        """Ends the relays."""
        for relay in self.relays:
            relay.destroy()


FREEZE, THAW = signal.SIGSTOP, signal.SIGCONT
