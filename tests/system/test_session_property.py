"""Random sequences of statements that mean something for the session end the same way through Forebay as directly.

Two other clients do the same at random between any two statements, on the same two server connections: what is left
behind by one, or missing for another, shows as a difference.
"""

import os
import random

import pytest

from harness import wire

SEEDS = [int(seed) for seed in os.environ.get("FOREBAY_PROPERTY_SEEDS", "").split(",") if seed] or range(1, 13)
STEPS = int(os.environ.get("FOREBAY_PROPERTY_STEPS", "70"))

SETTINGS = {
    "timezone": ["'UTC'", "'Europe/Berlin'", "default"],
    "datestyle": ["'ISO, DMY'", "'SQL, MDY'", "default"],
    "search_path": ["'pg_catalog'", "'$user', public", "public, pg_catalog", "default"],
    "work_mem": ["'1MB'", "'8MB'", "default"],
    "statement_timeout": ["'11s'", "0", "default"],
    "application_name": ["'one'", "'two'", "default"],
    "bytea_output": ["'escape'", "'hex'", "default"],
    "extra_float_digits": ["'0'", "'3'", "default"],
    "app.tenant": ["'7'", "'8'"],
    "default_transaction_isolation": ["'repeatable read'", "default"],
    "intervalstyle": ["'iso_8601'", "default"],
}
NAMES = ["a", "b"]
ROLE = "of_property_tests"


def statement(chance, name):
    """One statement, as (how it is sent, text). `name` keeps what is known to the whole database apart."""
    setting = chance.choice(list(SETTINGS))
    value = chance.choice(SETTINGS[setting])
    quoted = next(value for value in SETTINGS[setting] + ["'0'"] if value.startswith("'"))
    own = chance.choice(NAMES)
    texts = [
        (6, f"set {setting} = {value}"),
        (3, f"set local {setting} = {value}"),
        (2, f"reset {setting}"),
        (1, "reset all"),
        (1, "discard all"),
        (1, "discard temp"),
        (10, f"select coalesce(current_setting('{setting}', true), '')"),
        (4, f"show {setting if '.' not in setting else 'timezone'}"),
        (2, f"select set_config('{setting}', {quoted}, false)"),
        (1, f"select set_config('{setting}', {quoted}, true), 1"),
        (1, f"do $$ begin perform set_config('{setting}', {quoted}, false); end $$"),
        (1, f"select 1; set {setting} = {value}; select 2"),
        (6, "begin"), (5, "commit"), (3, "rollback"),
        (2, f"savepoint {own}"), (2, f"rollback to {own}"), (1, f"release {own}"),
        (2, "commit and chain"),
        (2, "select 1/0"),
        (2, f"set role {ROLE}"), (1, "reset role"), (1, "select current_user, session_user"),
        (2, f"prepare {own} as select coalesce(current_setting('{setting}', true), '')"),
        (3, f"execute {own}"), (1, f"deallocate {own}"), (1, "deallocate all"),
        (2, f"create temp table {own} (n int)"), (2, f"insert into pg_temp.{own} values (1), (2)"),
        (2, f"select count(*) from pg_temp.{own}"), (1, f"drop table pg_temp.{own}"),
        (1, f"create temp table {own}_c on commit drop as select 1 as n"),
        (1, f"declare {own} cursor with hold for select generate_series(1, 5)"),
        (2, f"fetch 2 from {own}"), (1, f"close {own}"), (1, "close all"),
        (1, f"select pg_advisory_lock(hashtext('{name}{own}'))"),
        (1, f"select pg_advisory_unlock(hashtext('{name}{own}'))"), (1, "select pg_advisory_unlock_all()"),
        (2, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"),
        (2, f"listen {name}{own}"), (1, f"unlisten {name}{own}"), (1, "unlisten *"),
        (3, f"notify {name}{own}, '{own}'"),
        (1, "select '2026-11-22 12:00+00'::timestamptz::text, '\\x00ff'::bytea::text, interval '90 minutes'"),
        (2, f"insert into {name} values (1)"), (2, f"select count(*) from {name}"),
        (1, ""),
    ]
    text = chance.choices([text for _, text in texts], [weight for weight, _ in texts])[0]
    how = chance.choice(["simple", "simple", "extended", "named"])
    return ("simple" if ";" in text else how), text


class Client:
    """Sends statements, and keeps what is comparable of the answers."""

    def __init__(self, port, name, **login):
        self.connection = wire.Wire(port, params={"application_name": "property", "TimeZone": "Asia/Tokyo"}, **login)
        self.connection.login()
        self.name = name
        self.names = {}
        self.status = "I"
        self.known = set()

    def ask(self, how, text):
        # Within a transaction a RESET brings back the server's own, not what the client began with; and what the
        # transaction of a LISTEN notifies itself is not heard.
        if self.status == "T" and (text.startswith(("listen", "reset")) or text.endswith("default")):
            text = "select 1"
        if how == "simple":
            frames = self.connection.ask(wire.query(text))
        elif how == "extended":
            frames = self.connection.ask(wire.parse(text) + wire.bind() + wire.describe("P") + wire.execute() + wire.sync())
        else:
            # The same text has the same name: it is prepared once, and used again.
            known = self.names.setdefault(text, f"s{len(self.names)}")
            first = wire.parse(text, known) if known not in self.known else b""
            frames = self.connection.ask(first + wire.bind(name=known) + wire.execute() + wire.sync())
            if first and "1" in [frame.type for frame in frames]:
                self.known.add(known)
            if text in ("discard all", "deallocate all") and not wire.errors(frames):
                self.known.clear()
        if how != "named" and text in ("discard all", "deallocate all") and not wire.errors(frames):
            self.known.clear()
        return self.comparable(frames)

    def comparable(self, frames):
        self.status = wire.status(frames)
        heard = sorted(frame.body[4:].replace(self.name.encode(), b"") for frame in frames if frame.type == "A")
        told = [wire.fields(frame)["C"] for frame in frames if frame.type == "N"]
        # A schema for temporary objects stays with a connection that has had one.
        errors = ["42P01" if code == "3F000" else code for code in wire.errors(frames)]
        types = wire.types(frames)
        if "25P02" in errors:
            # A Parse that the connection need not see is not refused by it.
            types = types.replace("1", "")
        return types, wire.rows(frames), wire.tags(frames), errors, told, heard


def reported(client):
    """Parameters as the server has told them."""
    ours = ("in_hot_standby", "server_version")
    return {name: value for name, value in client.connection.parameters.items() if name not in ours}


@pytest.fixture
def tables(shared_cluster, name):
    """One for each side, and a role that both may take."""
    if not shared_cluster.primary.sql("select from pg_roles where rolname = %s", params=[ROLE]):
        shared_cluster.primary.sql(f"create role {ROLE}")
        shared_cluster.primary.sql(f"grant {ROLE} to app")
    for side in "df":
        shared_cluster.primary.sql(f"create table {name}{side} (n int)")
        shared_cluster.primary.sql(f"alter table {name}{side} owner to app")
    yield name
    for side in "df":
        shared_cluster.primary.sql(f"drop table {name}{side}")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_session_is_like_a_direct_one(start_forebay, shared_cluster, tables, seed):
    forebay = start_forebay(pool={"size": 4})
    shared_cluster.caught_up()
    chance = random.Random(seed)
    direct = Client(shared_cluster.primary.port, tables + "d")
    through = Client(forebay.port, tables + "f")
    others = [Client(forebay.port, f"{tables}f{number}") for number in range(2)]
    history = []
    for _ in range(STEPS):
        state = chance.getstate()
        how, text = statement(chance, direct.name)
        chance.setstate(state)
        _, ours = statement(chance, through.name)
        history.append(f"{how}: {ours}")
        assert through.ask(how, ours) == direct.ask(how, text), "\n".join(history)
        other = chance.choice(others)
        for _ in range(chance.randrange(3)):
            other.ask(*statement(chance, other.name))
    assert reported(through) == reported(direct), "\n".join(history)
