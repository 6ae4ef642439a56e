"""A network that tests can break: each server in a network namespace of its own, all of them on one bridge.

Needs root. The namespaces belong to sleeping processes and end with them; nothing of it shows outside. What is dropped is
dropped silently, packet by packet, as by a cable that is pulled: the sender is given a hardware address that nobody has.
"""

import contextlib
import ctypes
import os
import subprocess

import pytest

from harness import process, rundir

CLONE_NEWNET = 0x40000000
NOBODY = "02:00:00:00:00:66"
_libc = ctypes.CDLL(None, use_errno=True)


class Place:
    """A namespace with one address on the bridge."""

    def __init__(self, name, number):
        self.name, self.address, self.port_on_bridge = name, f"10.111.0.{number}", f"to{number}"
        argv = ["unshare", "--net", "sleep", "infinity"]
        self._holder = subprocess.Popen(process.command_as(None, argv, "KILL"), stdin=subprocess.DEVNULL)
        self.file = f"/proc/{self._holder.pid}/ns/net"

    @property
    def pid(self):
        """A process that is there."""
        return self._holder.pid

    def run(self, *argv):
        """Runs a command there."""
        process.run_as(None, ["nsenter", f"--net={self.file}", *argv])

    @contextlib.contextmanager
    def inside(self):
        """This thread, and what it starts, is there."""
        with open("/proc/thread-self/ns/net", "rb") as before:
            _enter(self.file)
            try:
                yield
            finally:
                _setns(before.fileno())

    def destroy(self):
        """Ends it."""
        self._holder.kill()
        self._holder.wait(10)


def _enter(file):
    with open(file, "rb") as there:
        _setns(there.fileno())


def _setns(number):
    if _libc.setns(number, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Network:
    """Places by name; skips the test where no namespace can be made."""

    def __init__(self, names):
        if os.geteuid() or subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
            pytest.skip("network namespaces need root and the right to make them")
        rundir.LIVE.append(self)
        self._bridge = Place("bridge", 250)
        self._places = {name: Place(name, number) for number, name in enumerate(names, 1)}
        self._wait_for_namespaces()
        self._bridge.run("ip", "link", "add", "name", "bridge", "type", "bridge")
        self._bridge.run("ip", "link", "set", "bridge", "up")
        for place in self._places.values():
            self._connect(place)

    def _wait_for_namespaces(self):
        own = os.stat("/proc/self/ns/net").st_ino
        for place in [self._bridge, *self._places.values()]:
            while os.stat(place.file).st_ino == own:
                pass

    def _connect(self, place):
        place.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", place.port_on_bridge, "netns", str(self._bridge.pid))
        place.run("ip", "addr", "add", f"{place.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            place.run("ip", "link", "set", link, "up")
        self._bridge.run("ip", "link", "set", place.port_on_bridge, "master", "bridge", "up")

    def __getitem__(self, name):
        return self._places[name]

    def move(self, cluster):
        """Starts every node of a cluster anew, each in the place of its name."""
        for node in cluster.nodes:
            node.stop()
        for node in cluster.nodes:
            with open(node.data / "postgresql.auto.conf", "a", encoding="ascii") as settings:
                settings.write(f"listen_addresses = '{self[node.name].address}'\n")
                if node is not cluster.nodes[0]:
                    upstream, port = self[cluster.nodes[0].name].address, cluster.nodes[0].port
                    settings.write(f"primary_conninfo = 'host={upstream} port={port} user=replicator application_name={node.name}'\n")
            with open(node.data / "pg_hba.conf", "a", encoding="ascii") as hba:
                hba.write("host replication replicator 10.111.0.0/24 trust\nhost all all 10.111.0.0/24 trust\n")
            with self[node.name].inside():
                node.start(wait=False)
        for node in cluster.nodes:
            node.wait_ready()
        cluster.caught_up()

    def addresses(self, cluster):
        """`host:port` of every node of a cluster that has moved."""
        return [f"{self[node.name].address}:{node.port}" for node in cluster.nodes]

    def drop(self, sender, receiver):
        """What `sender` sends to `receiver` arrives no more; the other way all is well."""
        self[sender].run("ip", "neigh", "replace", self[receiver].address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")

    def cut(self, some, others):
        """Nothing passes between two sets of places."""
        for one in some:
            for other in others:
                self.drop(one, other)
                self.drop(other, one)

    def heal(self):
        """Everything passes again."""
        for place in self._places.values():
            place.run("ip", "neigh", "flush", "dev", "eth0", "nud", "permanent")

    def log_sections(self):
        """Nothing to tell."""
        return []

    def destroy(self):
        """Ends every place."""
        for place in [*self._places.values(), self._bridge]:
            place.destroy()
        if self in rundir.LIVE:
            rundir.LIVE.remove(self)
