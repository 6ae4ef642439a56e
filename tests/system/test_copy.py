"""COPY both ways, and messages larger than any buffer."""

import threading

import psycopg
import pytest

from harness import wait_until, wire


def test_rows_are_copied_in_and_out(target, table):
    with target.connect(row_factory=psycopg.rows.tuple_row) as client:
        with client.cursor().copy(f"copy {table} (id, v) from stdin") as copy:
            for number in range(1000):
                copy.write_row((number, f"row {number}\t\\"))
        with client.cursor().copy(f"copy (select id, v from {table} order by id) to stdout") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == [(number, f"row {number}\t\\") for number in range(1000)]


def test_binary_copy_works_both_ways(target, table):
    with target.connect(row_factory=psycopg.rows.tuple_row) as client:
        with client.cursor().copy(f"copy {table} (id, v) from stdin (format binary)") as copy:
            copy.set_types(["int4", "text"])
            for number in range(100):
                copy.write_row((number, "\x01\x7f" * number))
        with client.cursor().copy(f"copy {table} to stdout (format binary)") as copy:
            copy.set_types(["int4", "text"])
            assert sorted(copy.rows()) == [(number, "\x01\x7f" * number) for number in range(100)]


def test_a_copy_by_the_extended_protocol_works(target, table):
    client = target.wire()
    client.send(wire.parse(f"copy {table} (v) from stdin"), wire.bind(), wire.execute(), wire.sync())
    client.read_until("G")
    answer = client.ask(wire.copy_data(b"a\nb\n"), wire.copy_done(), wire.sync())
    assert wire.tags(answer) == ["COPY 2"]
    answer = client.ask(wire.parse(f"copy (select v from {table} order by v) to stdout"), wire.bind(), wire.execute(), wire.sync())
    assert [frame.body for frame in answer if frame.type == "d"] == [b"a\n", b"b\n"]


def test_a_copy_sent_ahead_in_one_write_works(target, table):
    client = target.wire()
    client.send(
        wire.query(f"copy {table} (v) from stdin"), wire.copy_data(b"x\n"), wire.copy_data(b"y\nz\n"), wire.copy_done(),
        wire.query(f"select count(*) from {table}"))
    assert wire.tags(client.read_until()) == ["COPY 3"]
    assert wire.rows(client.read_until()) == [["3"]]


def test_a_bad_row_fails_the_copy_and_nothing_else(target, table):
    client = target.wire()
    client.send(wire.query(f"copy {table} (id) from stdin"))
    client.read_until("G")
    client.send(*[wire.copy_data(b"1\n"), wire.copy_data(b"not a number\n")], *[wire.copy_data(b"5\n")] * 1000, wire.copy_done())
    assert wire.errors(client.read_until()) == ["22P02"]
    assert client.value(f"select count(*) from {table}") == "0"


def test_a_copy_that_the_client_fails_is_undone(target, table):
    client = target.wire()
    client.send(wire.query(f"copy {table} (v) from stdin"))
    client.read_until("G")
    answer = client.ask(wire.copy_data(b"x\n"), wire.copy_fail("changed my mind"))
    assert wire.errors(answer) == ["57014"]
    assert "changed my mind" in wire.fields(next(f for f in answer if f.type == "E"))["M"]
    assert client.value(f"select count(*) from {table}") == "0"


def test_a_copy_inside_a_transaction_is_rolled_back_with_it(target, table):
    with target.connect() as client:
        with pytest.raises(ZeroDivisionError), client.transaction():
            with client.cursor().copy(f"copy {table} (v) from stdin") as copy:
                copy.write("x\n")
            raise ZeroDivisionError
        assert client.execute(f"select count(*) as n from {table}").fetchone()["n"] == 0


def test_several_statements_around_a_copy_in_one_query(target, table):
    client = target.wire()
    client.send(wire.query(f"select 1; copy {table} (v) from stdin; select 2"))
    client.read_until("G")
    answer = client.ask(wire.copy_data(b"x\n"), wire.copy_done())
    assert wire.tags(answer) == ["COPY 1", "SELECT 1"]


def test_a_large_copy_in_streams_with_bounded_memory(forebay, shared_cluster, name):
    shared_cluster.everywhere(f"create unlogged table {name} (v text); alter table {name} owner to app")
    chunk = (b"x" * 1023 + b"\n") * 1024
    before = forebay.rss_kib()
    highest = 0
    with forebay.connect() as client:
        with client.cursor().copy(f"copy {name} from stdin") as copy:
            for number in range(100):
                copy.write(chunk)
                highest = max(highest, forebay.rss_kib())
        assert client.execute(f"select count(*) as n from {name}").fetchone()["n"] == 100 * 1024
    shared_cluster.sql(f"drop table {name}")
    assert highest - before < 16 * 1024, f"100 MiB of COPY made the process grow by {highest - before} KiB"


def test_a_large_copy_out_streams_with_bounded_memory(forebay):
    before, highest, size = forebay.rss_kib(), 0, 0
    with forebay.connect() as client:
        with client.cursor().copy("copy (select repeat('x', 1000) from generate_series(1, 150000)) to stdout") as copy:
            for number, block in enumerate(copy):
                size += len(block)
                if number % 10000 == 0:
                    highest = max(highest, forebay.rss_kib())
    assert size == 1001 * 150000
    assert highest - before < 16 * 1024, f"150 MB of COPY made the process grow by {highest - before} KiB"


@pytest.mark.parametrize("megabytes", [1, 200])
def test_a_row_larger_than_any_buffer_streams_with_bounded_memory(forebay, megabytes):
    client = forebay.wire(timeout=60)
    before, highest, size = forebay.rss_kib(), 0, 0
    client.send(wire.query(f"select repeat('x', {megabytes} << 20)"))
    while (data := client.socket.recv(1 << 20)):
        size += len(data)
        highest = max(highest, forebay.rss_kib())
        if data.endswith(wire.frame("Z", b"I")):
            break
    assert size > megabytes << 20
    assert highest - before < 16 * 1024, f"a row of {megabytes} MiB made the process grow by {highest - before} KiB"
    assert client.value("select 'after it'") == "after it"


def test_a_statement_larger_than_any_buffer_streams_with_bounded_memory(forebay):
    client = forebay.wire(timeout=60)
    client.value("select 1")
    before = forebay.rss_kib()
    highest, done = before, threading.Event()

    def watch():
        nonlocal highest
        while not done.wait(0.005):
            highest = max(highest, forebay.rss_kib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    size = 100 << 20
    assert client.value(f"select length('{'x' * size}')") == str(size)
    done.set()
    watcher.join()
    assert highest - before < 32 * 1024, f"a statement of 100 MiB made the process grow by {highest - before} KiB"


def test_a_large_parameter_arrives_whole(target, table):
    client = target.wire(timeout=60)
    value = "é" * (10 << 20)
    answer = client.ask(
        wire.parse(f"insert into {table} (v) values ($1) returning length(v), md5(v) = md5($1)"), wire.bind([value]),
        wire.execute(), wire.sync())
    assert wire.rows(answer) == [[str(10 << 20), "t"]]


def test_a_slow_reader_slows_only_itself(start_forebay):
    forebay = start_forebay(pool={"size": 2}, config={"general": {"threads": 1}})
    slow = forebay.wire()
    slow.send(wire.query("select repeat('x', 1000) from generate_series(1, 300000)"))
    slow.read_frame()
    before = forebay.rss_kib()
    others = [forebay.wire() for _ in range(5)]
    for number in range(200):
        assert others[number % 5].value("select 'quick'") == "quick"
    assert forebay.rss_kib() - before < 16 * 1024, "what the slow reader does not take stays with the server"
    assert sum(1 for frame in slow.read_until() if frame.type == "D") == 300000


def test_a_slow_writer_slows_only_itself(start_forebay, table):
    forebay = start_forebay(pool={"size": 1}, config={"general": {"threads": 1}}, routing={"split": False})
    slow = forebay.wire()
    message = wire.query(f"insert into {table} (v) values ('{'x' * 1000}')")
    slow.send(message[:500])
    assert [forebay.wire().value("select 1") for _ in range(20)] == ["1"] * 20, "half a message takes no server connection"
    slow.send(message[500:])
    assert wire.tags(slow.read_until()) == ["INSERT 0 1"]


def test_a_server_is_free_as_soon_as_its_answer_is_complete(start_forebay):
    """A server never waits for a client that is slow to take a small answer."""
    forebay = start_forebay(pool={"size": 1}, routing={"split": False})
    lazy = [forebay.wire() for _ in range(20)]
    for client in lazy:
        client.send(wire.query("select repeat('x', 20000)"))
    assert forebay.wire().value("select 1") == "1"
    wait_until(lambda: forebay.pool()["sv_active"] == 0, 5, "the server connection to be free though nobody has read")
    for client in lazy:
        assert len(wire.rows(client.read_until())[0][0]) == 20000


@pytest.mark.parametrize("how", ["simple", "extended", "failed"])
def test_a_copy_gives_its_connection_back(start_forebay, table, how):
    forebay = start_forebay(pool={"size": 1, "queue_timeout": "5s"}, routing={"split": False})
    client = forebay.wire()
    start = [wire.query(f"copy {table} (v) from stdin")]
    if how == "extended":
        start = [wire.parse(f"copy {table} (v) from stdin"), wire.bind(), wire.execute(), wire.sync()]
    client.send(*start)
    client.read_until("G")
    end = [wire.copy_fail("no")] if how == "failed" else [wire.copy_data(b"a\n"), wire.copy_done()]
    found = client.ask(*end, *([wire.sync()] if how == "extended" else []))
    assert (wire.tags(found), wire.status(found)) == ([] if how == "failed" else ["COPY 1"], "I")
    assert forebay.wire().run("select 'another client'") == [["another client"]]
