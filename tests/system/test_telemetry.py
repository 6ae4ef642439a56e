"""Traces and metrics by OTLP: what a collector is told, and that nobody waits for it."""

import asyncio
import itertools
import ssl
import threading
import time
import urllib.parse

import asyncpg
import psycopg
import pytest
from test_metrics import Scrape
from test_queue import queue_up

from harness import wait_until, wire
from harness.collector import Collector, attributes
from harness.ports import free_port

NUMBERS = itertools.count(1)


@pytest.fixture
def collector():
    """One in clear text."""
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def traced(start_forebay, collector):
    """An instance with one thread and one connection, to the primary, that tells the collector."""
    return start_forebay(routing={"split": False}, pool={"size": 1}, config=telling(collector))


def telling(collector, **more):
    """The part of the configuration."""
    return {"general": {"threads": 1}, "telemetry": {"otlp": collector.url, **more}}


class Parent:
    """The application's span."""

    def __init__(self, flags="01", version="00"):
        number = next(NUMBERS)
        self.trace, self.id, self.flags, self.version = f"{number:032x}", f"{number + 1000:016x}", flags, version

    def __str__(self):
        return f"{self.version}-{self.trace}-{self.id}-{self.flags}"

    @property
    def comment(self):
        """As sqlcommenter writes it."""
        return f"/*action='%2Fx',traceparent='{self}'*/"

    @property
    def escaped(self):
        """The same for psycopg, to which a percent sign means something."""
        return self.comment.replace("%", "%%")

    def whole(self, collector, timeout=10):
        """The span below it."""
        found = wait_until(lambda: collector.below(self.id), timeout, f"a span below {self.id}")
        assert len(found) == 1 and found[0].trace == self.trace, found
        return found[0]

    def parts(self, collector):
        """That one, and those below it by name."""
        whole = self.whole(collector)
        return whole, {span.name: span for span in collector.below(whole.id)}


def settled(forebay, collector, client):
    """Returns when everything that ran before on this thread has been told."""
    last = Parent()
    client.run(f"select 0 {last.comment}")
    last.whole(collector)


# -- what a span says ---------------------------------------------------------------------------------------------------

def test_a_simple_query_is_a_span_below_the_application_s(traced, collector):
    parent = Parent()
    before = time.time_ns()
    with traced.wire() as client:
        client.run(f"select a.aid, 'S3cret' from pgbench_accounts a join pgbench_branches using (bid) limit 3 {parent.comment}")
    whole, parts = parent.parts(collector)
    assert (whole.name, whole.kind) == ("SELECT pgbench_accounts pgbench_branches", "SPAN_KIND_SERVER")
    assert before < whole.start < whole.end < time.time_ns() and not whole.failed
    assert list(parts) == ["run"] and parts["run"].kind == "SPAN_KIND_CLIENT" and parts["run"].trace == parent.trace
    assert whole.start <= parts["run"].start < parts["run"].end <= whole.end
    primary = next(row for row in traced.admin("SHOW NODES") if row["role"] == "primary")
    for span in (whole, parts["run"]):
        known = span.attributes
        assert known["db.system.name"] == "postgresql" and known["db.namespace"] == "bench"
        assert known["db.query.text"] == "select a.aid, ? from pgbench_accounts a join pgbench_branches using(bid) limit ?"
        assert known["db.query.summary"] == whole.name and known["db.operation.name"] == "SELECT"
        assert (known["server.address"], known["server.port"]) == (primary["host"], primary["port"])
        assert (known["forebay.node"], known["forebay.target"]) == (primary["node"], "primary")
        assert known["db.response.returned_rows"] == 3 and "db.response.status_code" not in known
    assert whole.attributes["user.name"] == "app"
    assert whole.attributes["client.address"] == whole.attributes["network.peer.address"] == "127.0.0.1"
    assert whole.resource["service.name"] == "forebay" and whole.resource["service.version"]
    assert len(whole.resource["service.instance.id"]) == 36


@pytest.mark.parametrize("place", ["leading", "trailing", "before a semicolon", "encoded"])
def test_the_comment_is_found_where_libraries_put_it(traced, collector, place):
    parent = Parent()
    sql = {
        "leading": f"/* app */ {parent.comment} select 1",
        "trailing": f"select 1 {parent.comment}\n",
        "before a semicolon": f"select 1 {parent.comment};",
        "encoded": f"select 1 /*traceparent='{urllib.parse.quote(str(parent), safe='').replace('-', '%2D')}'*/",
    }[place]
    with traced.wire() as client:
        client.run(sql)
    assert parent.whole(collector).name == "SELECT"


def test_no_literal_and_no_bad_parent_is_told(traced, collector):
    secret = "S3cret"
    bad = [
        "00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", "x" * 5000, "%", "%zz", ""]
    unsampled = Parent(flags="00")
    with traced.wire() as client:
        for value in bad:
            client.run(f"select 1 /*traceparent='{value}'*/")
        client.ask(wire.query(f"select 1 /*traceparent='{Parent()}"))
        client.run(f"select 'traceparent=''{Parent()}'''")
        client.run(f"select 1 {unsampled.comment}")
        for sql in (f"select '{secret}', $x${secret}$x$, E'\\'{secret}'", f"update pgbench_branches set filler = '{secret}' where false",
                    f"select '{secret}'::int", f"/* {secret} */ select 1 -- {secret}\n"):
            client.ask(wire.query(f"{sql} {Parent().comment}"))
        settled(traced, collector, client)
    assert len([span for span in collector.spans if span.kind == "SPAN_KIND_SERVER"]) == 5
    assert not collector.below(unsampled.id)
    assert secret not in str([span.message for span in collector.spans]) + traced.log()


def test_the_wait_and_the_run_are_apart(traced, collector):
    holder = traced.wire()
    holder.run("begin")
    parent = Parent()
    waiting = queue_up(traced, 1, f"select pg_sleep(0.1) {parent.comment}")[0]
    time.sleep(0.4)
    holder.run("commit")
    waiting.read_until()
    whole, parts = parent.parts(collector)
    assert set(parts) == {"wait", "run"}
    wait, run = parts["wait"], parts["run"]
    assert wait.kind == "SPAN_KIND_INTERNAL" and 300 < wait.ms < 5000
    assert 100 <= run.ms < 2000
    assert whole.start == wait.start and wait.end <= run.start and run.end == whole.end
    assert whole.ms == pytest.approx(wait.ms + run.ms, abs=50)


def test_who_gets_no_connection_is_told_with_its_wait(start_forebay, collector):
    forebay = start_forebay(routing={"split": False}, pool={"size": 1, "queue_timeout": "300ms"}, config=telling(collector))
    holder = forebay.wire()
    holder.run("begin")
    simple, extended = Parent(), Parent()
    with forebay.wire() as client:
        assert wire.errors(client.ask(wire.query(f"select 1 as lost {simple.comment}"))) == ["57P03"]
        client.send(wire.parse(f"select 1 as lost {extended.comment}"), wire.bind(), wire.execute(), wire.sync())
        assert wire.errors(client.read_until()) == ["57P03"]
    for parent in (simple, extended):
        whole, parts = parent.parts(collector)
        assert whole.failed and set(parts) == {"wait"} and parts["wait"].ms > 200
        assert whole.attributes["db.response.status_code"] == "57P03" and whole.attributes["forebay.error.source"] == "forebay"
        assert "server.address" not in whole.attributes


def test_errors_have_their_code_and_no_text(traced, collector):
    simple, extended, at_parse = Parent(), Parent(), Parent()
    with traced.wire() as client:
        client.ask(wire.query(f"select 1 / 0 {simple.comment}"))
        client.ask(wire.parse(f"select 1 / $1::int {extended.comment}"), wire.bind(["0"]), wire.execute(), wire.sync())
        client.ask(wire.parse(f"select nothing {at_parse.comment}"), wire.bind(), wire.execute(), wire.sync())
    for parent, code in ((simple, "22012"), (extended, "22012"), (at_parse, "42703")):
        whole, parts = parent.parts(collector)
        assert whole.failed and parts["run"].failed, whole
        assert whole.attributes["db.response.status_code"] == whole.attributes["error.type"] == code
        assert whole.attributes["forebay.error.source"] == "server" and not whole.message.status.message


def test_a_server_that_is_lost_ends_the_span(traced, collector, shared_cluster):
    parent = Parent()
    client = traced.wire()
    client.send(wire.query(f"select pg_sleep(20) {parent.comment}"))
    traced.wait_pool(sv_active=1)
    shared_cluster.primary.sql("select pg_terminate_backend(pid) from pg_stat_activity where query like 'select pg_sleep(20)%'")
    client.read_frame()
    whole = parent.whole(collector)
    assert whole.failed and whole.attributes["db.response.status_code"] == "57P01"


# -- the extended protocol ----------------------------------------------------------------------------------------------

def test_a_batch_is_a_span(traced, collector):
    unnamed, named = Parent(), Parent()
    with traced.wire() as client:
        client.ask(wire.parse(f"select $1::int {unnamed.comment}"), wire.bind(["5"]), wire.execute(), wire.sync())
        client.ask(wire.parse(f"select $1::int {named.comment}", name="a"), wire.describe("S", "a"), wire.bind(["5"], "a"),
                   wire.execute(), wire.sync())
    for parent in (unnamed, named):
        whole, parts = parent.parts(collector)
        assert whole.attributes["db.query.text"] == "select ?::int" and whole.attributes["db.response.returned_rows"] == 1
        assert list(parts) == ["run"]


def test_the_comment_of_a_parse_holds_for_one_bind_soon(traced, collector):
    twice, next_request, too_late = Parent(), Parent(), Parent()

    def run(client, name):
        client.ask(wire.bind(["5"], name), wire.execute(), wire.sync())

    with traced.wire() as client:
        client.ask(wire.parse(f"select $1::int {twice.comment}", name="a"), wire.bind(["5"], "a"), wire.execute(),
                   wire.bind(["5"], "a"), wire.execute(), wire.sync())
        run(client, "a")
        client.ask(wire.parse(f"select $1::int {next_request.comment}", name="b"), wire.sync())
        run(client, "b")
        run(client, "b")
        client.ask(wire.parse(f"select $1::int {too_late.comment}", name="c"), wire.sync())
        client.run("select 1")
        run(client, "c")
        settled(traced, collector, client)
    assert len(collector.below(twice.id)) == 1, "the second has no comment of its own"
    assert len(collector.below(next_request.id)) == 1
    assert not collector.below(too_late.id)


def test_drivers_are_traced(traced, collector):
    psycopgs, asyncpgs = [Parent() for _ in range(8)], [Parent() for _ in range(3)]
    with traced.connect(prepare_threshold=2) as client:
        for parent in psycopgs:
            client.execute(f"select %s::int {parent.escaped}", (1,))

    async def ask():
        client = await asyncpg.connect(host="127.0.0.1", port=traced.port, user="app", password="app", database="bench")
        for parent in asyncpgs:
            await client.fetch(f"select $1::int {parent.comment}", 1)
        await client.close()

    asyncio.run(ask())
    for parent in psycopgs + asyncpgs:
        assert parent.whole(collector).name == "SELECT"


def test_a_pipeline_has_each_in_its_place(traced, collector):
    """Among statements that nobody watches, also once there is no time to count them."""
    with traced.wire() as client:
        for _ in range(5):
            client.send(*[wire.query("select 1 as filler")] * 500)
            for _ in range(500):
                client.read_until()
        parents = []
        for round_ in range(20):
            frames = []
            for i in range(6):
                comment = ""
                if (i + round_) % 3 == 0:
                    parents.append((Parent(), i + 1, i == 4))
                    comment = parents[-1][0].comment
                divisor = 0 if i == 4 else 1
                sql = f"select g / {divisor} from generate_series(1, {i + 1}) g {comment}"
                if i % 2:
                    frames.append(wire.query(sql))
                else:
                    frames += [wire.parse(sql), wire.bind(), wire.execute(), wire.sync()]
            client.send(*frames)
            for _ in range(6):
                client.read_until()
    for parent, rows, fails in parents:
        whole = parent.whole(collector)
        assert whole.failed == fails, whole
        assert fails or whole.attributes["db.response.returned_rows"] == rows, whole


def test_what_is_skipped_after_an_error_is_not_told(traced, collector):
    before, failing, skipped, after = Parent(), Parent(), Parent(), Parent()
    with traced.wire() as client:
        frames = []
        for parent, divisor in ((before, 1), (failing, 0), (skipped, 1)):
            frames += [wire.parse(f"select 1 / {divisor} {parent.comment}"), wire.bind(), wire.execute()]
        client.send(*frames, wire.sync(), wire.query(f"select 2 {after.comment}"))
        client.read_until()
        client.read_until()
        settled(traced, collector, client)
    assert not before.whole(collector).failed and failing.whole(collector).failed and not after.whole(collector).failed
    assert not collector.below(skipped.id)


def test_a_replica_and_a_rerun_on_the_primary(start_forebay, collector):
    forebay = start_forebay(routing={"consistency": "eventual"}, config=telling(collector))
    reading, refused = Parent(), Parent()
    with forebay.wire() as client:
        wait_until(lambda: client.run("select 1 from pgbench_branches") and client.value("show forebay.node") != "pg1", 10, "a read")
        client.run(f"select count(*) from pgbench_branches {reading.comment}")
        client.run(f"/* forebay: replica */ select txid_current() {refused.comment}")
    assert reading.whole(collector).attributes["forebay.target"] == "replica"
    assert not refused.whole(collector).failed


# -- nobody waits for it ------------------------------------------------------------------------------------------------

def test_a_share_without_a_parent_is_traced(start_forebay, collector):
    forebay = start_forebay(routing={"split": False}, config=telling(collector, sample=0.25))
    with forebay.wire() as client:
        for _ in range(400):
            client.run("select 1 as sampled")
        unsampled = Parent(flags="00")
        client.run(f"select 1 {unsampled.comment}")
        settled(forebay, collector, client)
    roots = [span for span in collector.spans if not span.parent]
    assert 50 < len(roots) < 170 and len({span.trace for span in roots}) == len(roots)
    assert not collector.below(unsampled.id) and unsampled.trace not in {span.trace for span in collector.spans}


def test_without_a_parent_nothing_is_traced(traced, collector):
    with traced.wire() as client:
        for _ in range(50):
            client.run("select 1")
        client.ask(wire.parse("select 1"), wire.bind(), wire.execute(), wire.sync())
        settled(traced, collector, client)
    assert len({span.trace for span in collector.spans}) == 1


def test_a_collector_that_is_down_is_told_later(start_forebay):
    port = free_port()
    forebay = start_forebay(
        routing={"split": False}, config={"general": {"threads": 1}, "telemetry": {"otlp": f"http://127.0.0.1:{port}"}})
    parents = [Parent() for _ in range(5)]
    with forebay.wire() as client:
        for parent in parents:
            client.run(f"select 1 {parent.comment}")
    forebay.wait_log("a collector takes no telemetry now")
    collector = Collector(port=port)
    try:
        for parent in parents:
            parent.whole(collector, 30)
        forebay.wait_log("a collector answers again")
        assert Scrape(forebay).sum("forebay_otlp_dropped_total", signal="traces") == 0
        wait_until(lambda: Scrape(forebay).sum("forebay_otlp_sent_total", signal="traces") == 5, 10, "the count")
    finally:
        collector.close()


def test_answers_are_taken_as_the_protocol_says(start_forebay, collector):
    forebay = start_forebay(routing={"split": False}, config=telling(collector, interval="off"))
    collector.answers = [503, 429]
    again, refused, last = Parent(), Parent(), Parent()
    with forebay.wire() as client:
        client.run(f"select 1 {again.comment}")
        again.whole(collector)
        assert [status for _, status, _, _ in collector.requests] == [503, 429, 200]
        collector.answers = [400]
        client.run(f"select 1 {refused.comment}")
        wait_until(lambda: len(collector.requests) == 4, 10, "the refusal")
        client.run(f"select 1 {last.comment}")
        last.whole(collector)
    assert not collector.below(refused.id)
    forebay.wait_log("a collector refuses telemetry")
    assert Scrape(forebay).sum("forebay_otlp_dropped_total", signal="traces") == 1
    assert len({port for _, _, _, port in collector.requests[3:]}) == 1, "the connection is used again"


def test_a_collector_that_hangs_holds_up_nobody(start_forebay, collector):
    collector.hang.clear()
    forebay = start_forebay(routing={"split": False}, config=telling(collector))
    with forebay.wire() as client:
        parent = Parent()
        client.run(f"select 1 {parent.comment}")
        time.sleep(1)
        # Many more than are kept.
        count, batch = 9000, 300
        began = time.monotonic()
        for _ in range(count // batch):
            client.send(*[wire.query(f"select 1 {Parent().comment}") for _ in range(batch)])
            for _ in range(batch):
                assert not wire.errors(client.read_until())
        took = time.monotonic() - began
        assert took < 60, took
        dropped = Scrape(forebay).sum("forebay_otlp_dropped_total", signal="traces")
        assert 200 < dropped < 1000, dropped
        collector.hang.set()
        parent.whole(collector, 30)
        wait_until(lambda: len(collector.spans) >= 2 * (count - dropped), 30, "what was kept")
    assert forebay.rss_kib() < 200_000


def test_headers_and_tls(start_forebay, authority):
    certificate, key = authority.sign("collector")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    collector = Collector(context)
    told = {"otlp": f"https://localhost:{collector.port}/prefix/", "headers": {"authorization": {"env": "COLLECTOR_KEY"}, "x-scope": "a"},
            "service_name": "pooler-1"}
    try:
        forebay = start_forebay(config={"telemetry": {**told, "tls": {"ca": str(authority.file)}}}, env={"COLLECTOR_KEY": "Bearer S3cret"})
        parent = Parent()
        with forebay.wire() as client:
            client.run(f"select 1 {parent.comment}")
        assert parent.whole(collector).resource["service.name"] == "pooler-1"
        path, _, headers, _ = next(request for request in collector.requests if "traces" in request[0])
        assert path == "/prefix/v1/traces" and headers["content-type"] == "application/x-protobuf"
        assert (headers["authorization"], headers["x-scope"]) == ("Bearer S3cret", "a")
        assert "S3cret" not in forebay.log() + str(forebay.admin("SHOW CONFIG"))
        before = len(collector.requests)
        stranger = start_forebay(config={"telemetry": told}, env={"COLLECTOR_KEY": "x"})
        stranger.wait_log("a collector takes no telemetry now")
        assert not [request for request in collector.requests[before:] if request[2]["authorization"] == "x"]
        forebay.assert_sound()
    finally:
        collector.close()


# -- metrics ------------------------------------------------------------------------------------------------------------

def points(metric):
    """Its points by their labels."""
    data = getattr(metric, metric.WhichOneof("data"))
    return {tuple(sorted(attributes(point).items())): point for point in data.data_points}


def test_the_metrics_are_those_of_the_page(start_forebay, collector):
    forebay = start_forebay(routing={"split": False}, config=telling(collector, interval="1s"))
    with forebay.wire() as client:
        for _ in range(37):
            client.run("select 1")
        client.ask(wire.query("select 1 / 0"))

    def at_rest():
        """The page and an export that say the same of what clients did."""
        export, scrape = collector.exports[-1], Scrape(forebay)
        told = sum(point.as_int for point in points(export["forebay_queries_total"]).values())
        return told >= 38 and told == scrape.sum("forebay_queries_total") and (export, scrape)

    wait_until(lambda: collector.exports, 10, "an export")
    export, scrape = wait_until(at_rest, 20, "the figures")
    names = {sample.name for sample in scrape.samples}
    for name, metric in export.items():
        kind = scrape.types[name.removesuffix("_total")]
        form = metric.WhichOneof("data")
        assert (kind, form) in {("counter", "sum"), ("gauge", "gauge"), ("histogram", "histogram")}, name
        if form == "sum":
            assert metric.sum.is_monotonic and metric.sum.aggregation_temporality == 2, name
    assert {name.removesuffix("_total") for name in export} == set(scrape.types)
    moving = ("process_", "forebay_otlp_", "forebay_node_probes", "forebay_logins", "forebay_client_conn")
    compared = 0
    for sample in scrape.samples:
        metric = export.get(sample.name)
        if metric is None or metric.WhichOneof("data") != "sum" or sample.name.startswith(moving):
            continue
        point = points(metric)[tuple(sorted(sample.labels.items()))]
        assert point.start_time_unix_nano < point.time_unix_nano
        assert (point.as_int if point.WhichOneof("value") == "as_int" else point.as_double) == sample.value, sample
        compared += 1
    assert compared > 15 and "forebay_queries_total" in names
    times = points(export["forebay_query_seconds"])
    [point] = times.values()
    assert point.count == sum(point.bucket_counts) == scrape.sum("forebay_query_seconds_count") >= 38 and len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert point.sum == pytest.approx(scrape.sum("forebay_query_seconds_sum"), rel=0.01)
    assert export["forebay_query_seconds"].unit == "s"


# -- configuration ------------------------------------------------------------------------------------------------------

def test_a_reload_switches_it_on_and_off(start_forebay, collector):
    forebay = start_forebay(routing={"split": False}, config={"general": {"threads": 1}})
    off, on, off_again = Parent(), Parent(), Parent()
    with forebay.wire() as client:
        client.run(f"select 1 {off.comment}")
        forebay.write({**forebay.config, "telemetry": {"otlp": collector.url, "interval": "1s"}})
        changes = forebay.admin("RELOAD")
        assert "restart" not in str(changes)
        client.run(f"select 1 {on.comment}")
        on.whole(collector)
        wait_until(lambda: collector.exports, 10, "the metrics")
        forebay.write({key: value for key, value in forebay.config.items() if key != "telemetry"})
        forebay.admin("RELOAD")
        time.sleep(0.5)
        count = len(collector.requests)
        client.run(f"select 1 {off_again.comment}")
        time.sleep(2.5)
        assert len(collector.requests) == count
    assert not collector.below(off.id) and not collector.below(off_again.id)


def test_what_is_left_is_told_at_the_end(traced, collector):
    parent = Parent()
    with traced.wire() as client:
        client.run(f"select 1 {parent.comment}")
    traced.term()
    assert traced.wait_end() == 0
    assert len(collector.below(parent.id)) == 1


def test_texts_that_differ_in_their_trace_only_are_one(traced, collector):
    """In SHOW QUERIES, and for what is remembered of statements."""
    with traced.connect(prepare_threshold=None) as client:
        for _ in range(30):
            client.execute(f"select {next(NUMBERS)} as traced {Parent().comment}")
    row = next(row for row in traced.admin("SHOW QUERIES") if "traced" in row["sample"])
    assert row["sample"] == "select ? as traced" and row["calls"] == 30


def test_prepared_statements_with_a_trace_each_stay_bounded(start_forebay, collector):
    forebay = start_forebay(routing={"split": False}, pool={"size": 1, "prepared_statements": 20}, config=telling(collector))
    with forebay.connect(prepare_threshold=0) as client:
        client.prepared_max = 10
        for _ in range(200):
            client.execute(f"select %s::int {Parent().escaped}", (1,))
    rows = forebay.admin("SHOW MEM")
    with forebay.connect() as client:
        held = client.execute("select count(*) as held from pg_prepared_statements").fetchone()["held"]
    assert held <= 21, (held, rows)


def test_clients_in_parallel(start_forebay, collector):
    forebay = start_forebay(config=telling(collector) | {"general": {"threads": 2}}, pool={"size": 3})
    parents = [[Parent() for _ in range(50)] for _ in range(8)]

    def work(mine):
        with forebay.connect(prepare_threshold=None) as client:
            for i, parent in enumerate(mine):
                client.execute(f"select {i} from pgbench_branches {parent.comment}")

    threads = [threading.Thread(target=work, args=(mine,)) for mine in parents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in parents:
        for parent in mine:
            assert parent.whole(collector).name == "SELECT pgbench_branches"


def test_a_wrong_configuration_says_what_is_wrong(start_forebay):
    forebay = start_forebay()
    for table, words in (({"otlp": "collector:4318"}, "must be a URL"), ({"otlp": "http://a", "sample": 2}, "from 0 to 1"),
                         ({"otlp": "http://a", "headers": {"b": "x\ny"}}, "header"), ({"otlp": "http://a:x"}, "must be a URL")):
        forebay.write({**forebay.config, "telemetry": table})
        with pytest.raises(psycopg.Error, match=words):
            forebay.admin("RELOAD")
