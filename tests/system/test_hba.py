"""Rules of pg_hba.conf: as PostgreSQL has them, held against PostgreSQL itself."""

import psycopg
import pytest

from harness import wire


@pytest.fixture
def with_rules(start_forebay, tmp_path):
    """Starts Forebay with these lines as its rules, and these as its maps; `rules` and `maps` are the files."""
    def start(*rules, maps=(), wait="nodes", **postgres):
        write(tmp_path / "hba.conf", rules)
        write(tmp_path / "ident.conf", maps)
        postgres = {"auth": "hba", "hba_file": str(tmp_path / "hba.conf"), "ident_file": str(tmp_path / "ident.conf"),
                    **postgres}
        forebay = start_forebay(wait=wait, **postgres)
        forebay.rules, forebay.maps = tmp_path / "hba.conf", tmp_path / "ident.conf"
        return forebay
    return start


def write(file, lines):
    file.write_text("".join(line + "\n" for line in lines))


def refusal(endpoint, **login):
    with pytest.raises(wire.ServerError) as caught:
        endpoint.wire(**login)
    return caught.value


CONSOLE = "host forebay all 127.0.0.1/32 scram-sha-256"

CODES = {"scram-sha-256": [10, 11, 12, 0], "md5": [5, 0], "password": [3, 0], "trust": [0]}


@pytest.mark.parametrize("method", list(CODES))
def test_the_method_of_the_first_rule_that_fits_is_used(with_rules, method):
    forebay = with_rules(CONSOLE, f"host bench app 127.0.0.1/32 {method}", "host all all all reject")
    connection = forebay.wire()
    assert connection.auth_codes == CODES[method]
    assert connection.run("select current_user") == [["app"]]
    if method != "trust":
        error = refusal(forebay, password="wrong")
        assert (error.sqlstate, error.fields["M"]) == ("28P01", 'password authentication failed for user "app"')
    assert refusal(forebay, dbname="other").sqlstate == "28000"


def test_a_client_is_told_what_postgresql_would_tell_it(with_rules):
    forebay = with_rules(CONSOLE, "host bench app 127.0.0.1/32 md5", "host all other all reject")
    error = refusal(forebay, user="other")
    assert (error.sqlstate, error.fields["S"], error.fields["M"]) == (
        "28000", "FATAL",
        'pg_hba.conf rejects connection for host "127.0.0.1", user "other", database "bench", no encryption')
    error = refusal(forebay, dbname="other")
    assert (error.sqlstate, error.fields["M"]) == (
        "28000", 'no pg_hba.conf entry for host "127.0.0.1", user "app", database "other", no encryption')
    with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry for host"):
        forebay.connect(dbname="other")
