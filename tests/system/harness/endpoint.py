"""What a PostgreSQL node and Forebay have in common for a client: a loopback port to log in to."""

import psycopg
from psycopg.rows import dict_row

from harness.wire import Wire


class Endpoint:
    """A port that speaks PostgreSQL's protocol. Subclasses set `port` and `kind` ("direct" or "forebay")."""

    port = None
    kind = None

    def dsn(self, user="app", dbname="bench", **more):
        """A connection string of libpq."""
        password = more.pop("password", user)
        parts = {"host": "127.0.0.1", "port": self.port, "user": user, "password": password, "dbname": dbname, **more}
        return " ".join(f"{key}='{value}'" for key, value in parts.items() if value is not None)

    def connect(self, user="app", dbname="bench", autocommit=True, row_factory=dict_row, **more):
        """A psycopg connection; in autocommit unless told otherwise."""
        more.setdefault("connect_timeout", 10)
        options = {key: more.pop(key) for key in ("prepare_threshold", "cursor_factory") if key in more}
        return psycopg.connect(
            self.dsn(user, dbname, **more), autocommit=autocommit, row_factory=row_factory, **options)

    def wire(self, user="app", dbname="bench", **more):
        """A raw connection, logged in."""
        more.setdefault("password", user)
        return Wire(self.port, user, dbname, **more).login()

    def environment(self, user="app", dbname="bench", password=None):
        """Variables for programs built on libpq."""
        return {
            "PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": user, "PGPASSWORD": password or user,
            "PGDATABASE": dbname, "PGCONNECT_TIMEOUT": "10",
        }
