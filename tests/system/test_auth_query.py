"""Logins that only PostgreSQL knows: `auth_user` and `auth_query`."""

import time

import psycopg
import pytest

from harness import wait_until, wire
from test_auth import refusal

LOOKUP = """
create schema forebay;
create function forebay.lookup(login text, out name text, out password text, out valid_until float8)
language sql security definer set search_path = pg_catalog as $$
    select rolname::text, rolpassword, extract(epoch from rolvaliduntil)::float8 from pg_authid
    where rolname = login and rolcanlogin and not rolsuper
$$;
revoke all on function forebay.lookup from public;
create role forebay_auth login password 'auth';
grant usage on schema forebay to forebay_auth;
grant execute on function forebay.lookup to forebay_auth
"""
USERS = [{"name": "monitor", "password": "monitor"}, {"name": "forebay_auth", "password": "auth"}]


@pytest.fixture
def servers(new_cluster):
    """A primary and a replica that ask for SCRAM, with logins that no configuration names."""
    # Which is SCRAM for whoever has such a verifier.
    servers = new_cluster(replicas=1, auth="md5")
    servers.sql("; ".join(statement for statement in [LOOKUP, "create role shop login password 'old'"]))
    servers.sql("set password_encryption = 'md5'; create role elder login password 'md5 it is'")
    servers.caught_up()
    return servers


@pytest.fixture
def asking(start_forebay, servers):
    def start(query="select * from forebay.lookup($1)", **settings):
        asked = {"auth_user": "forebay_auth", "auth_dbname": "bench", **({"auth_query": query} if query else {}), **settings}
        return start_forebay(servers=servers, user=USERS, wait="port", **asked)
    return start


def who(forebay, password="old", user="shop", **options):
    return forebay.wire(user=user, password=password, **options).value("select current_user")


def test_a_login_of_the_server_is_let_in_by_its_stored_verifier(asking, servers):
    forebay = asking()
    assert wait_until(lambda: who(forebay), 15, "the first login") == "shop"
    assert refusal(forebay, user="shop", password="wrong").sqlstate == "28P01"
    assert refusal(forebay, user="nobody", password="wrong").sqlstate == "28P01"
    assert refusal(forebay, user="postgres", password="").sqlstate == "28P01", "the function keeps superusers out"
    # One question for all of these, and no clear password anywhere: the client's own proof opened the server.
    assert [who(forebay) for _ in range(5)] == ["shop"] * 5
    assert servers.value("select count(*) from pg_stat_activity where usename = 'forebay_auth'") == 1


def test_md5_is_spoken_where_it_is_what_is_stored(asking):
    forebay = asking(auth="md5")
    assert wait_until(lambda: who(forebay, "old"), 15, "a login by SCRAM") == "shop"
    assert forebay.wire(user="elder", password="md5 it is").auth_codes[0] == 5


def test_a_new_password_is_taken_at_once_and_the_old_one_no_longer(asking, servers):
    forebay = asking(auth_query_cache="1h")
    wait_until(lambda: who(forebay), 15, "the first login")
    servers.sql("alter role shop password 'new'")
    wait_until(lambda: who(forebay, "new") == "shop", 10, "the new password to be looked up after a failed login")
    assert refusal(forebay, user="shop", password="old").sqlstate == "28P01"


def test_what_is_known_is_forgotten_after_a_while(asking, servers):
    forebay = asking(auth_query_cache="1s")
    wait_until(lambda: who(forebay), 15, "the first login")
    servers.sql("drop role shop")

    def is_refused():
        try:
            who(forebay)
        except wire.ServerError as error:
            return error.sqlstate == "28P01"
    wait_until(is_refused, 10, "the role to be gone here, too")


def test_the_end_of_a_password_is_kept(asking, servers):
    forebay = asking(auth_query_cache="1h")
    servers.sql(f"alter role shop valid until '{time.strftime('%Y-%m-%d %H:%M:%S+00', time.gmtime(time.time() + 6))}'")
    assert wait_until(lambda: who(forebay), 5, "a login before that end") == "shop"

    def is_over():
        try:
            who(forebay)
        except wire.ServerError as error:
            return error.sqlstate == "28P01"
    wait_until(is_over, 15, "the password to end, though the answer is remembered")
    servers.sql("alter role shop valid until 'infinity'")
    forebay.admin("RELOAD")
    assert who(forebay) == "shop"
    servers.sql("alter role shop valid until '-infinity'")
    forebay.admin("RELOAD")
    assert refusal(forebay, user="shop", password="old").sqlstate == "28P01"


def test_nobody_puts_a_function_of_his_own_before_the_system_s(asking, servers):
    """Neither by settings of his connection nor by those of the login that asks."""
    servers.sql("create schema evil; create table evil.pg_authid (rolname name, rolpassword text, rolvaliduntil timestamptz, "
                "rolcanlogin bool, rolsuper bool); insert into evil.pg_authid values ('shop', "
                "'md5' || md5('hackedshop'), null, true, false); grant usage on schema evil to public; "
                "grant select on evil.pg_authid to public; alter role forebay_auth set search_path = evil, pg_catalog")
    servers.sql("grant select on pg_authid to forebay_auth")
    query = "select rolname, rolpassword from pg_authid where rolname = $1"
    forebay = asking(query, auth="md5")
    assert wait_until(lambda: who(forebay), 15, "a login") == "shop"
    assert refusal(forebay, user="shop", password="hacked").sqlstate == "28P01"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        forebay.connect(user="shop", password="hacked", options="-c search_path=evil")


def test_a_superuser_needs_no_function(asking, servers):
    servers.sql("alter role forebay_auth superuser")
    assert wait_until(lambda: who(asking(query=None)), 15, "a login by the default query") == "shop"


@pytest.mark.parametrize("query, why", [
    ("select * from no_such_function($1)", "no_such_function"),
    ("select 'shop'::text", "one parameter"),
    ("select $1::text", "its password"),
    ("select 'other'::text, 'x'::text where $1 <> ''", "another login"),
    ("select $1::text, 'SCRAM-SHA-256$broken'::text", "no verifier"),
    ("select $1::text, 'x'::text from generate_series(1, 2)", "2 rows")])
def test_a_query_that_does_not_serve_lets_nobody_in_and_says_why_in_the_log(asking, query, why):
    forebay = asking(query)
    wait_until(lambda: all(row["state"] == "up" for row in forebay.admin("SHOW NODES")), 15, "the nodes")
    error = refusal(forebay, user="shop", password="x")
    assert error.sqlstate in ("57P03", "28P01") and why not in error.fields["M"]
    assert why in forebay.log()


def test_logins_wait_while_the_primary_fails_and_a_replica_answers(asking, servers):
    forebay = asking(auth_query_cache="100ms")
    wait_until(lambda: who(forebay), 15, "the first login")
    servers.nodes[0].kill()
    # The replica knows the logins as well; what the pool does without a primary is another matter.
    assert refusal(forebay, user="shop", password="wrong").sqlstate == "28P01"
    servers.nodes[1].promote()
    wait_until(lambda: who(forebay) == "shop", 30, "a login at the new primary")


@pytest.mark.parametrize("settings, message", [
    ({"auth_query": "select 1"}, "auth_user"), ({"auth_user": "unheard_of"}, "unheard_of"),
    ({"auth_user": "stored"}, "verifier")])
def test_who_is_to_ask_must_be_able_to(start_forebay, servers, settings, message):
    stored = {"name": "stored", "password": servers.value("select rolpassword from pg_authid where rolname = 'shop'")}
    with pytest.raises(Exception, match=message):
        start_forebay(servers=servers, user=[*USERS, stored], wait="port", **settings)
