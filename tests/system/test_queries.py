"""SHOW QUERIES and the log of slow statements."""

import threading

import psycopg
import pytest

from harness import wait_until, wire

COLUMNS = ["fingerprint", "database", "user", "target", "calls", "total_ms", "mean_ms", "p99_ms", "rows", "errors", "sample"]


def queries(forebay, **wanted):
    """The rows of SHOW QUERIES with these values, by their text."""
    rows = [row for row in forebay.admin("SHOW QUERIES") if wanted.items() <= row.items()]
    found = {}
    for row in rows:
        assert row["sample"] not in found, rows
        found[row["sample"]] = row
    return found


@pytest.fixture
def plain(start_forebay):
    """One thread, no split: every statement runs on the primary."""
    return start_forebay(routing={"split": False}, pool={"size": 3}, config={"general": {"threads": 1}})


def test_statements_are_told_by_what_they_have_in_common(plain):
    with plain.connect(prepare_threshold=None) as client:
        for i in range(40):
            client.execute(f"select {i} as a, 'text {i}' as b")
        for i in range(7):
            client.execute("select %s::int + %s::int as c", (i, i))
        client.execute("select g from generate_series(1, 25) g")
    with plain.console() as console:
        cursor = console.execute("SHOW QUERIES")
        assert [column.name for column in cursor.description] == COLUMNS
    found = queries(plain, user="app", target="primary", database="bench")
    first = found["select ? as a, ? as b"]
    assert (first["calls"], first["rows"], first["errors"]) == (40, 40, 0)
    assert found["select ?::int + ?::int as c"]["calls"] == 7
    assert found["select g from generate_series(?) g"]["rows"] == 25
    assert first["total_ms"] > 0 and first["mean_ms"] == pytest.approx(first["total_ms"] / 40, abs=0.001)
    assert 0 < first["p99_ms"] <= first["total_ms"] * 2
    assert len(first["fingerprint"]) == 16


def test_the_protocols_are_one(plain):
    with plain.wire() as client:
        for i in range(3):
            client.ask(wire.query(f"select {i} as one"))
        for _ in range(4):
            client.ask(wire.parse("select $1::int as one", types=()), wire.bind(["5"]), wire.execute(), wire.sync())
    found = queries(plain)
    assert found["select ? as one"]["calls"] == 3
    assert found["select ?::int as one"]["calls"] == 4


def test_time_and_failures_are_told(plain):
    with plain.connect(prepare_threshold=None) as client:
        for _ in range(3):
            client.execute("select pg_sleep(0.05)")
        for _ in range(5):
            with pytest.raises(psycopg.errors.DivisionByZero):
                client.execute("select 1 / 0 as broken")
    found = queries(plain)
    slow = found["select pg_sleep(?)"]
    assert slow["calls"] == 3 and slow["total_ms"] >= 150 and slow["mean_ms"] >= 50 and slow["p99_ms"] >= 40
    broken = found["select ? / ? as broken"]
    assert (broken["calls"], broken["errors"], broken["rows"]) == (5, 5, 0)
    assert list(found)[0] == "select pg_sleep(?)", "the one that took longest is first"


def test_prepared_statements_and_pipelines_are_counted_one_by_one(plain):
    with plain.connect(prepare_threshold=0) as client:
        for i in range(10):
            client.execute("select %s::int as prepared", (i,))
        with client.pipeline():
            for i in range(20):
                client.execute("select %s::int as piped", (i,))
        client.execute("create temporary table filled (a int)")
        with client.cursor() as cursor:
            cursor.executemany("insert into filled values (%s)", [(i,) for i in range(30)])
    found = queries(plain)
    assert found["select ?::int as prepared"]["calls"] == 10
    assert (found["select ?::int as piped"]["calls"], found["select ?::int as piped"]["rows"]) == (20, 20)
    assert (found["insert into filled values(?)"]["calls"], found["insert into filled values(?)"]["rows"]) == (30, 30)


def test_an_error_in_a_pipeline_leaves_the_rest_in_step(plain):
    with plain.wire() as client:
        client.ask(wire.parse("select 1 / $1::int as a", name="a"), wire.parse("select $1::int as b", name="b"), wire.sync())
        client.send(
            wire.bind(["1"], "a"), wire.execute(), wire.bind(["0"], "a"), wire.execute(), wire.bind(["1"], "b"), wire.execute(),
            wire.sync(), wire.bind(["2"], "b"), wire.execute(), wire.sync())
        assert wire.errors(client.read_until("Z")) and not wire.errors(client.read_until("Z"))
    found = queries(plain)
    assert (found["select ? / ?::int as a"]["calls"], found["select ? / ?::int as a"]["errors"]) == (2, 1)
    assert (found["select ?::int as b"]["calls"], found["select ?::int as b"]["rows"]) == (1, 1), "what was skipped did not run"


def test_a_cursor_that_is_read_in_parts_is_one_call(plain):
    with plain.wire() as client:
        client.ask(wire.query("begin"))
        client.ask(wire.parse("select g from generate_series(1, 10) g"), wire.bind(), wire.execute("", 4), wire.sync())
        client.ask(wire.query("commit"))
    assert queries(plain)["select g from generate_series(?) g"]["calls"] == 1


def test_the_target_is_told(start_forebay):
    forebay = start_forebay(routing={"consistency": "eventual"}, config={"general": {"threads": 1}})
    with forebay.connect(prepare_threshold=None) as client:
        wait_until(lambda: client.execute("select count(*) as everywhere from pgbench_branches").fetchone() and
                   queries(forebay, target="replica").get("select count(*) as everywhere from pgbench_branches"), 10, "a read")
        client.execute("/* forebay: primary */ select 5 as here")
    assert "select ? as here" in queries(forebay, target="primary")
    assert "select ? as here" not in queries(forebay, target="replica")


def test_no_value_of_a_client_is_shown(start_forebay):
    forebay = start_forebay(config={"general": {"threads": 1, "log": {"slow_statements": "1ms"}}}, routing={"split": False})
    secret = "S3cret"
    with forebay.connect() as client:
        for sql in (f"select '{secret}'", f"select $x${secret}$x$", f"select E'\\'{secret}'", f"select /* {secret} */ 1 -- {secret}",
                    f"select pg_sleep(0.01), '{secret}'"):
            client.execute(sql)
        with pytest.raises(psycopg.Error):
            client.execute(f"alter role nobody_{1} password '{secret}'")
        with pytest.raises(psycopg.Error):
            client.execute(f"select '{secret}", prepare=False)
        client.execute("select %s, pg_sleep(0.01)", (secret,))
    assert secret not in str(forebay.admin("SHOW QUERIES"))
    assert secret not in forebay.log()


def test_memory_is_bounded_and_the_slow_ones_stay(plain):
    with plain.connect(prepare_threshold=None) as client:
        client.execute("select pg_sleep(0.05)")
        for i in range(1500):
            client.execute(f"select 1 as c{i}")
    found = queries(plain)
    assert len(found) <= 1000
    assert found["select pg_sleep(?)"]["calls"] == 1


def test_under_load_the_figures_are_estimates_that_add_up(plain):
    """More statements than are looked at one by one."""
    clients, each = 4, 2500

    def work():
        with plain.connect(prepare_threshold=None) as client:
            for i in range(each):
                client.execute(f"select {i} as loaded")

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with plain.connect(prepare_threshold=None) as client:
        def calls():
            # What was passed over is put down to whoever is looked at next.
            client.execute("select 1 as loaded")
            return queries(plain)["select ? as loaded"]["calls"]
        wait_until(lambda: calls() >= clients * each * 0.9, 10, "the figures to have caught up")
        assert calls() <= clients * each * 1.1


# -- slow statements ----------------------------------------------------------------------------------------------------

def slow_lines(forebay):
    return [line for line in forebay.log().splitlines() if "slow statement" in line]


def test_a_slow_statement_has_a_line_with_its_wait_and_its_run_apart(start_forebay):
    forebay = start_forebay(
        routing={"split": False}, pool={"size": 1}, config={"general": {"threads": 1, "log": {"slow_statements": "100ms"}}})
    with forebay.connect() as client:
        client.execute("select 1")
        assert not slow_lines(forebay)
        client.execute("select pg_sleep(0.15), 'x'")
    line = wait_until(lambda: slow_lines(forebay), 5, "the line")[0]
    assert "select pg_sleep(?), ?" in line and "wait_ms=0" in line and "user=\"app\"" in line, line
    assert 150 <= int(line.split("run_ms=")[1].split()[0]) < 5000

    def second():
        with forebay.connect() as client:
            client.execute("select 2 as waited")

    with forebay.connect() as first:
        first.execute("begin")
        thread = threading.Thread(target=second)
        thread.start()
        wait_until(lambda: forebay.admin("SHOW QUEUE")[0]["waiting"] == 1, 10, "the second to wait")
        wait_until(lambda: forebay.admin("SHOW QUEUE")[0]["oldest_wait_ms"] > 150, 10, "it to have waited")
        first.execute("rollback")
        thread.join()
    line = next(line for line in slow_lines(forebay) if "as waited" in line)
    assert int(line.split("wait_ms=")[1].split()[0]) >= 150 and int(line.split("run_ms=")[1].split()[0]) < 150


def test_the_lines_are_limited_and_a_reload_turns_them_on(start_forebay):
    forebay = start_forebay(routing={"split": False}, config={"general": {"threads": 1}})
    with forebay.connect() as client:
        client.execute("select pg_sleep(0.02)")
        assert not slow_lines(forebay)
        forebay.write({**forebay.config, "general": {**forebay.config["general"], "log": {"slow_statements": "1ms"}}})
        forebay.admin("RELOAD")
        for _ in range(100):
            client.execute("select pg_sleep(0.002)")
    assert 10 <= len(slow_lines(forebay)) <= 60
