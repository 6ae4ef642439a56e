"""Real servers for the system tests: PostgreSQL clusters, Redis groups, Forebay itself, raw clients, a faulty network.

Everything runs on free loopback ports and can be started several times in parallel. See `postgres.Cluster`,
`redis_servers.RedisGroup`, `forebay.Forebay`, `wire.Wire`, `redis_wire.RedisWire` and `relay.Relay`.
"""

from harness.forebay import Forebay
from harness.postgres import Cluster, Node
from harness.redis_servers import RedisGroup
from harness.redis_wire import RedisWire
from harness.relay import Relay
from harness.waiting import wait_until
from harness.wire import Wire

__all__ = ["Cluster", "Forebay", "Node", "RedisGroup", "RedisWire", "Relay", "Wire", "wait_until"]
