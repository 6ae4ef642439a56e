"""The protocol as a client sees it, against PostgreSQL itself and through Forebay."""

import struct

import pytest

from harness import Wire, wire

INT4PL = 177  # int4pl(int4, int4), an oid that never changes
NEXTVAL = 1574  # nextval(regclass)


def int4(number):
    return struct.pack("!i", number)


# -- start-up -----------------------------------------------------------------------------------------------------


def test_protocol_3_0_logs_in_with_a_key_of_four_bytes(target):
    client = target.wire(protocol=wire.PROTOCOL_3_0)
    assert client.negotiated is None
    assert len(client.key[1]) == 4, "3.0 clients expect a secret of four bytes"
    assert client.value("select 1") == "1"


def test_protocol_3_2_is_spoken_with_a_variable_key(forebay):
    client = forebay.wire(protocol=wire.PROTOCOL_3_2)
    assert client.negotiated is None, "3.2 was asked for and is spoken, so nothing is negotiated"
    assert 4 < len(client.key[1]) <= 256, "3.2 is there for keys that are longer than four bytes"
    assert client.value("select 1") == "1"


def test_a_newer_minor_version_is_negotiated_down(forebay):
    client = forebay.wire(protocol=3 << 16 | 9)
    assert client.negotiated, "NegotiateProtocolVersion is the answer to 3.9"
    assert struct.unpack("!I", client.negotiated[:4])[0] & 0xFFFF == 2, "3.2 is the newest"
    assert client.value("select 1") == "1"


def test_unknown_protocol_options_are_named_in_the_negotiation(target):
    client = target.wire(params={"_pq_.no_such_option": "1"})
    assert client.negotiated, "an unknown _pq_ option is answered by NegotiateProtocolVersion"
    assert b"_pq_.no_such_option\0" in client.negotiated
    assert client.value("select 1") == "1"


def test_protocol_2_is_refused_with_an_error_packet(target):
    client = Wire(target.port)
    client.send(wire.startup(2 << 16, {"user": "app", "database": "bench"}))
    said = b""
    while data := client.socket.recv(1000):
        said += data
    assert said.startswith(b"E") and b"protocol" in said, said


@pytest.mark.parametrize("codes", [[wire.SSL_REQUEST], [wire.GSS_REQUEST], [wire.GSS_REQUEST, wire.SSL_REQUEST]])
def test_encryption_that_is_not_there_is_declined_and_login_goes_on(forebay, codes):
    client = Wire(forebay.port)
    for code in codes:
        client.send(wire.startup(code))
        assert client.read_byte() == b"N"
    assert client.login().value("select 1") == "1"


def test_the_same_parameters_are_reported_as_by_the_server(shared_cluster, forebay):
    there, here = shared_cluster.primary.wire().parameters, forebay.wire().parameters
    assert set(there) <= set(here), f"missing ParameterStatus of {set(there) - set(here)}"
    for name in ("server_version", "server_encoding", "client_encoding", "DateStyle", "integer_datetimes",
                 "standard_conforming_strings", "TimeZone"):
        assert here[name] == there[name], name


def test_startup_parameters_are_in_force(target):
    client = target.wire(params={
        "application_name": "the-name", "DateStyle": "German", "options": "-c statement_timeout=12345 -c geqo=off"})
    assert client.parameters["application_name"] == "the-name"
    for name, value in (("application_name", "the-name"), ("DateStyle", "German, DMY"),
                        ("statement_timeout", "12345ms"), ("geqo", "off")):
        assert client.value(f"show {name}") == value, name


def test_a_start_up_that_arrives_byte_by_byte_is_understood(target):
    client = Wire(target.port)
    client.send_bytewise(client.startup_packet())
    client.authenticate()
    client.send_bytewise(wire.query("select 'slowly'"))
    assert wire.rows(client.read_until()) == [["slowly"]]


# -- simple query -------------------------------------------------------------------------------------------------


def test_several_statements_in_one_query_answer_in_order(target):
    answer = target.wire().ask(wire.query("select 1; select 2 where false; select 3"))
    assert wire.types(answer) == "TDCTCTDCZ"
    assert wire.rows(answer) == [["1"], ["3"]]


@pytest.mark.parametrize("sql", ["", "  ", ";", "-- nothing", "/* nothing */"])
def test_an_empty_query_is_answered_as_such(target, sql):
    assert wire.types(target.wire().ask(wire.query(sql))) == "IZ"


def test_an_error_ends_the_query_and_nothing_else(target):
    client = target.wire()
    answer = client.ask(wire.query("select 1; select 1/0; select 2"))
    assert wire.types(answer) in ("TDCTEZ", "TDCEZ")
    assert wire.errors(answer) == ["22012"]
    assert wire.status(answer) == "I"
    assert client.value("select 'well'") == "well"


def test_the_transaction_status_is_told_after_each_query(target):
    client = target.wire()
    states = [wire.status(client.ask(wire.query(sql))) for sql in
              ("begin", "select 1", "select 1/0", "select 1", "rollback", "select 1")]
    assert states == ["T", "T", "E", "E", "I", "I"]


def test_queries_sent_ahead_are_answered_in_order(target):
    client = target.wire()
    client.send(*[wire.query(f"select {number}") for number in range(200)])
    got = [wire.rows(client.read_until())[0][0] for _ in range(200)]
    assert got == [str(number) for number in range(200)]


# -- extended query -----------------------------------------------------------------------------------------------


def test_the_extended_protocol_answers_message_for_message(target):
    answer = target.wire().ask(
        wire.parse("select $1::int + 1"), wire.describe(), wire.bind([41]), wire.describe("P"), wire.execute(), wire.sync())
    assert wire.types(answer) == "1tT2TDCZ"
    assert wire.rows(answer) == [["42"]]


def test_a_portal_is_read_in_portions(target):
    client = target.wire()
    answer = client.ask(
        wire.parse("select generate_series(1, 5)"), wire.bind(portal="p"), wire.execute("p", 2), wire.execute("p", 2),
        wire.execute("p", 2), wire.sync())
    assert wire.types(answer) == "12DDsDDsDCZ"
    answer = client.ask(wire.execute("p", 2), wire.sync())
    assert wire.errors(answer) == ["34000"], "the portal is gone with its transaction"


def test_a_portal_lives_as_long_as_its_transaction(target):
    client = target.wire()
    client.run("begin")
    client.ask(wire.parse("select generate_series(1, 3)"), wire.bind(portal="p"), wire.execute("p", 1), wire.sync())
    answer = client.ask(wire.execute("p", 0), wire.sync())
    assert wire.rows(answer) == [["2"], ["3"]]
    client.run("commit")


def test_after_an_error_everything_up_to_sync_is_skipped(target):
    client = target.wire()
    answer = client.ask(
        wire.parse("select 1/0"), wire.bind(), wire.execute(), wire.parse("select 7"), wire.bind(), wire.execute(), wire.sync())
    assert wire.types(answer) in ("1EZ", "12EZ"), "planning or execution fails, nothing else is answered"
    assert wire.errors(answer) == ["22012"]
    answer = client.ask(wire.parse("select 7"), wire.bind(), wire.execute(), wire.sync())
    assert wire.rows(answer) == [["7"]]


def test_flush_brings_the_answers_without_ready_for_query(target):
    client = target.wire()
    client.send(wire.parse("select $1::text"), wire.flush())
    assert wire.types(client.read_until("1")) == "1"
    client.send(wire.bind(["x"]), wire.describe("P"), wire.flush())
    assert wire.types(client.read_until("T")) == "2T"
    client.send(wire.execute(), wire.flush())
    assert wire.types(client.read_until("C")) == "DC"
    assert client.nothing_comes(0.2), "ReadyForQuery belongs to Sync alone"
    assert wire.types(client.ask(wire.sync())) == "Z"


def test_flush_with_nothing_before_it_is_harmless(target):
    client = target.wire()
    client.send(wire.flush(), wire.flush())
    assert client.nothing_comes(0.2)
    assert client.value("select 1") == "1"


def test_a_lone_sync_is_answered(target):
    client = target.wire()
    assert wire.types(client.ask(wire.sync())) == "Z"
    client.send(wire.sync(), wire.sync(), wire.sync())
    assert [wire.types(client.read_until()) for _ in range(3)] == ["Z"] * 3


def test_a_pipeline_of_many_syncs_keeps_step(target):
    client = target.wire()
    client.send(*[
        part for number in range(100)
        for part in (wire.parse("select $1::int"), wire.bind([number]), wire.execute(), wire.sync())])
    for number in range(100):
        answer = client.read_until()
        assert (wire.types(answer), wire.rows(answer)) == ("12DCZ", [[str(number)]])


def test_an_error_in_a_pipeline_fails_its_own_segment_only(target):
    client = target.wire()
    values = [1, 0, 2, 0, 3]
    client.send(*[
        part for value in values
        for part in (wire.parse("select 6 / $1::int"), wire.bind([value]), wire.execute(), wire.sync())])
    got = [client.read_until() for _ in values]
    assert [wire.errors(answer) for answer in got] == [[], ["22012"], [], ["22012"], []]
    assert [wire.rows(answer) for answer in got if wire.rows(answer)] == [[["6"]], [["3"]], [["2"]]]


def test_a_pipeline_with_a_transaction_inside_keeps_step(target, table):
    client = target.wire()
    steps = ["begin", f"insert into {table} (v) values ('a')", "select 1", "commit", f"select v from {table}"]
    client.send(*[part for sql in steps for part in (wire.parse(sql), wire.bind(), wire.execute(), wire.sync())])
    got = [client.read_until() for _ in steps]
    assert [wire.status(answer) for answer in got] == ["T", "T", "T", "I", "I"]
    assert wire.rows(got[-1]) == [["a"]]


def test_simple_and_extended_queries_mix_in_one_pipeline(target):
    client = target.wire()
    client.send(
        wire.query("select 1"), wire.parse("select 2"), wire.bind(), wire.execute(), wire.sync(), wire.query("select 3"))
    assert [wire.rows(client.read_until()) for _ in range(3)] == [[["1"]], [["2"]], [["3"]]]


def test_results_are_sent_in_the_format_that_was_asked_for(target):
    answer = target.wire().ask(
        wire.parse("select 258::int4"), wire.bind(result_formats=[1]), wire.execute(), wire.sync())
    row = next(frame for frame in answer if frame.type == "D")
    assert row.body == struct.pack("!Hi", 1, 4) + int4(258)


# -- function call ------------------------------------------------------------------------------------------------


def test_a_function_call_returns_its_value(target):
    answer = target.wire().ask(wire.function_call(INT4PL, [int4(40), int4(2)]))
    assert wire.types(answer) == "VZ"
    assert answer[0].body == int4(4) + int4(42)


def test_a_function_call_that_writes_reaches_the_primary(target, table, shared_cluster):
    client = target.wire()
    oid = int(shared_cluster.value(f"select '{table}_id_seq'::regclass::oid"))
    for expected in (1, 2):
        answer = client.ask(wire.function_call(NEXTVAL, [struct.pack("!I", oid)]))
        assert answer[0].type == "V", wire.errors(answer)
        assert struct.unpack("!q", answer[0].body[4:])[0] == expected


def test_a_function_call_inside_a_transaction_stays_in_it(target):
    client = target.wire()
    client.run("begin")
    answer = client.ask(wire.function_call(INT4PL, [int4(1), int4(2)]))
    assert (wire.types(answer), wire.status(answer)) == ("VZ", "T")
    assert wire.status(client.ask(wire.query("commit"))) == "I"


def test_a_function_call_that_fails_leaves_the_connection_usable(target):
    client = target.wire()
    answer = client.ask(wire.function_call(INT4PL, [int4(2**31 - 1), int4(1)]))
    assert wire.errors(answer) == ["22003"]
    assert client.value("select 1") == "1"


# -- notices, parameters, notifications ---------------------------------------------------------------------------


def test_notices_arrive_in_their_place(target):
    answer = target.wire().ask(wire.query("do $$ begin raise notice 'hear %', 1; raise warning 'hear 2'; end $$; select 1"))
    assert [frame.type for frame in answer if frame.type in "NCZ"] == ["N", "N", "C", "C", "Z"]
    notices = [wire.fields(frame) for frame in answer if frame.type == "N"]
    assert [(n["S"], n["M"]) for n in notices] == [("NOTICE", "hear 1"), ("WARNING", "hear 2")]


def test_a_changed_parameter_is_reported_to_the_client(target):
    client = target.wire()
    answer = client.ask(wire.query("begin; set local DateStyle to 'German'"))
    reports = [frame.body for frame in answer if frame.type == "S"]
    assert b"DateStyle\0German, DMY\0" in reports
    answer = client.ask(wire.query("rollback"))
    assert any(frame.body.startswith(b"DateStyle\0ISO") for frame in answer if frame.type == "S")


def test_errors_keep_every_field_of_the_server(target, table):
    client = target.wire()
    client.run(f"alter table {table} add constraint positive check (id > 0)")
    answer = client.ask(wire.query(f"insert into {table} values (-1)"))
    error = wire.fields(next(frame for frame in answer if frame.type == "E"))
    assert error["C"] == "23514" and error["V"] == "ERROR"
    assert (error["s"], error["t"], error["n"]) == ("public", table, "positive")
    assert "Failing row" in error["D"]


def test_notifications_reach_a_listener(start_forebay, shared_cluster, name):
    forebay = start_forebay(pool={"mode": "session"})
    for endpoint in (shared_cluster.primary, forebay):
        listener, sender = endpoint.wire(), endpoint.wire()
        listener.run(f"listen {name}")
        sender.run(f"notify {name}, 'hello'")
        found = listener.read_until("A")[-1]
        assert found.body[4:] == name.encode() + b"\0hello\0"
        listener.run(f"unlisten {name}")


def test_terminate_closes_the_connection(target):
    client = target.wire()
    client.send(wire.terminate())
    assert client.wait_closed(5) == []
