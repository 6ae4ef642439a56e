"""A plugin for pytest: asyncpg's tests take a server that runs already for one of their own.

They would skip what changes the way to the server (a network that fails, a server that hangs up) if they found its address
in the environment, as they are meant to do with a server far away.
"""

import os


def pytest_configure():
    from asyncpg import _testbase, cluster

    login = {"host": "127.0.0.1", "port": int(os.environ["SUITE_PORT"]), "user": "postgres", "password": "postgres"}
    _testbase._default_cluster = cluster.RunningCluster(**login)
