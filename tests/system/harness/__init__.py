"""Real servers for the system tests: PostgreSQL clusters, Forebay itself, a raw client and a faulty network.

Everything runs on free loopback ports and can be started several times in parallel. See `postgres.Cluster`,
`forebay.Forebay`, `wire.Wire` and `relay.Relay`.
"""

from harness.forebay import Forebay
from harness.postgres import Cluster, Node
from harness.relay import Relay
from harness.waiting import wait_until
from harness.wire import Wire

__all__ = ["Cluster", "Forebay", "Node", "Relay", "Wire", "wait_until"]
