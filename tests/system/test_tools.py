"""What graphical tools ask when they connect: the answers are those of the server itself.

The statements are of the kind that pgAdmin 4 and DBeaver (by pgjdbc) send, several in a message, with settings that go by
`set_config`, and over catalogs.
"""

import pytest

from harness import wait_until, wire

PGADMIN = [
    "SET DateStyle=ISO; SET client_min_messages=notice; "
    "SELECT set_config('bytea_output','hex',false) FROM pg_show_all_settings() WHERE name = 'bytea_output'; "
    "SET client_encoding='utf-8';",
    "SELECT version()",
    "SELECT db.oid as did, db.datname, db.datallowconn, pg_encoding_to_char(db.encoding) AS serverencoding, "
    "has_database_privilege(db.oid, 'CREATE') as cancreate, datistemplate FROM pg_catalog.pg_database db "
    "WHERE db.datname = current_database()",
    "SELECT roles.oid as id, roles.rolname as name, roles.rolsuper as is_superuser, "
    "CASE WHEN roles.rolsuper THEN true ELSE roles.rolcreaterole END as can_create_role "
    "FROM pg_catalog.pg_roles as roles WHERE rolname = current_user",
    "BEGIN; SELECT gss_authenticated, encrypted FROM pg_catalog.pg_stat_gssapi WHERE false; ROLLBACK",
    "SELECT nsp.nspname, pg_catalog.has_schema_privilege(nsp.oid, 'CREATE') AS can_create FROM pg_catalog.pg_namespace nsp "
    "WHERE nspname NOT LIKE E'pg\\\\_%' ORDER BY nspname",
    "SHOW search_path",
    "SHOW bytea_output",
]
DBEAVER = [
    "SET extra_float_digits = 3",
    "SET application_name = 'DBeaver 24.1 - Main <bench>'",
    "SELECT VERSION()",
    "select current_schema(),session_user",
    "SHOW search_path",
    "SELECT n.oid,n.nspname,d.description FROM pg_catalog.pg_namespace n LEFT OUTER JOIN pg_catalog.pg_description d "
    "ON d.objoid=n.oid AND d.objsubid=0 AND d.classoid='pg_namespace'::regclass ORDER BY nspname",
    "SELECT db.oid,db.datname FROM pg_catalog.pg_database db WHERE datallowconn AND NOT datistemplate ORDER BY db.datname",
    "select name, setting from pg_catalog.pg_settings where name='standard_conforming_strings'",
    "select string_agg(word, ',' order by word) from pg_catalog.pg_get_keywords() where word <> ALL ('{a,abs}'::text[])",
    "SELECT t.oid,t.typname,format_type(nullif(t.typbasetype, 0), t.typtypmod) as base_type FROM pg_catalog.pg_type t "
    "LEFT OUTER JOIN pg_catalog.pg_class c ON c.oid=t.typrelid WHERE t.typname IS NOT NULL AND t.oid < 10000 ORDER BY t.oid",
    "SHOW extra_float_digits",
    "SHOW application_name",
]


def simple(client, sql):
    return client.ask(wire.query(sql))


def extended(client, sql):
    return client.ask(wire.parse(sql), wire.bind(), wire.describe("P"), wire.execute(), wire.sync())


def told(frames):
    """What a client sees of an answer."""
    return wire.types(frames), wire.tags(frames), wire.errors(frames), [frame.body for frame in frames if frame.type in "TD"]


@pytest.mark.parametrize("ask, statements", [(simple, PGADMIN), (extended, DBEAVER), (simple, DBEAVER)],
                         ids=["pgAdmin", "DBeaver", "DBeaver, simple queries"])
@pytest.mark.parametrize("size", [1, 4])
def test_a_tool_is_answered_as_by_the_server(start_forebay, shared_cluster, ask, statements, size):
    forebay = start_forebay(pool={"size": size})
    direct, through, other = shared_cluster.nodes[0].wire(), forebay.wire(), forebay.wire()
    for sql in statements:
        other.run("select 1")
        assert told(ask(through, sql)) == told(ask(direct, sql)), sql
    assert other.run("show application_name") != [["DBeaver 24.1 - Main <bench>"]]
    wait_until(lambda: forebay.admin("SHOW PINS") == [], 10, "nobody to keep a connection")
