"""`/metrics`: every name of the contract, readable by the field's own parser, and the numbers are right."""

import subprocess
import threading
import time

import psycopg
import pytest
import redis
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from harness import wait_until
from harness.forebay import ROOT

OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}
CONTRACT = """forebay_build_info forebay_node_up forebay_node_role forebay_node_lag_bytes forebay_node_lag_seconds forebay_clients
forebay_client_waiting forebay_server_connections forebay_queue_wait_seconds forebay_query_seconds
forebay_transaction_seconds forebay_queries_total forebay_errors_total forebay_bytes_total forebay_failovers_total
forebay_failover_gap_seconds forebay_pins forebay_auth_failures_total forebay_bans forebay_redis_commands_total
forebay_redis_commands_per_write forebay_config_reload_success""".split()


class Scrape:
    """The samples of one answer, by name."""

    def __init__(self, forebay, newer=True):
        answer = forebay.http("/metrics", headers=OPENMETRICS if newer else {})
        assert answer.status == 200, answer
        self.kind = answer.headers["content-type"]
        families = list((openmetrics if newer else prometheus)(answer.text))
        self.types = {family.name: family.type for family in families}
        self.samples = [sample for family in families for sample in family.samples]

    def all(self, name, **labels):
        """The values of the samples with these labels, at least."""
        return [sample.value for sample in self.samples
                if sample.name == name and labels.items() <= sample.labels.items()]

    def sum(self, name, **labels):
        """Their sum; there must be one."""
        found = self.all(name, **labels)
        assert found, f"no {name} with {labels}"
        return sum(found)


@pytest.mark.parametrize("newer", [True, False], ids=["OpenMetrics", "Prometheus 0.0.4"])
def test_every_name_of_the_contract_is_there(start_forebay, shared_redis, newer):
    forebay = start_forebay(servers=None, redis=shared_redis)
    scrape = Scrape(forebay, newer)
    assert scrape.kind.startswith("application/openmetrics-text" if newer else "text/plain")
    names = {sample.name for sample in scrape.samples}
    # A service of Redis alone has neither pools nor replicas of PostgreSQL.
    of_pools = {"forebay_queue_wait_seconds", "forebay_query_seconds", "forebay_transaction_seconds", "forebay_queries_total",
                "forebay_bytes_total", "forebay_pins"}
    missing = {name for name in CONTRACT if name not in names and f"{name}_count" not in names}
    assert missing <= of_pools, missing


def test_every_name_of_the_contract_is_there_for_postgres(start_forebay):
    forebay = start_forebay()
    with forebay.connect() as client:
        client.execute("select 1")
    scrape = Scrape(forebay)
    names = {sample.name for sample in scrape.samples}
    missing = {name for name in CONTRACT if name not in names and f"{name}_count" not in names}
    assert missing == {"forebay_redis_commands_total", "forebay_redis_commands_per_write"}, missing


def test_the_documentation_lists_every_metric():
    text = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    table = (ROOT / "src" / "admin" / "metrics" / "table.rs").read_text("utf-8")
    names = [line.split('"')[1] for line in table.splitlines() if line.strip().startswith('name: "')]
    assert len(names) > 30
    assert not [name for name in names if f"`{name}`" not in text]


def test_queries_transactions_and_bytes_are_counted(start_forebay):
    forebay = start_forebay(pool={"size": 2}, routing={"split": False})
    with forebay.connect(prepare_threshold=None) as client:
        client.execute("select 1")
        before = Scrape(forebay)
        for _ in range(10):
            client.execute("select pg_sleep(0.003)")
        with client.transaction():
            client.execute("select 1")
            client.execute("select 2")
        with pytest.raises(psycopg.errors.DivisionByZero):
            client.execute("select 1 / 0")
        after = Scrape(forebay)

    def grown(name, **labels):
        return after.sum(name, **labels) - before.sum(name, **labels)

    of_app = {"service": "main", "database": "bench", "user": "app"}
    # begin, two statements, commit; the failed one
    assert grown("forebay_query_seconds_count", **of_app) == 10 + 4 + 1
    assert grown("forebay_transaction_seconds_count", **of_app) == 10 + 1 + 1
    assert grown("forebay_queries_total", target="primary", **of_app) == 10 + 4 + 1
    assert grown("forebay_queries_total", target="replica", **of_app) == 0
    assert grown("forebay_errors_total", kind="server", **of_app) == 1
    assert grown("forebay_bytes_total", direction="received", **of_app) > 10 * len("select pg_sleep(0.003)")
    assert grown("forebay_bytes_total", direction="sent", **of_app) > 0
    assert grown("forebay_query_seconds_sum", **of_app) >= 0.03
    slow = [grown("forebay_query_seconds_bucket", le=le, **of_app) for le in ("0.002097152", "+Inf")]
    assert slow[0] <= 5 and slow[1] == 15, "ten took 3 ms at least"


def test_buckets_grow_with_their_bounds(start_forebay):
    forebay = start_forebay()
    with forebay.connect() as client:
        client.execute("select pg_sleep(0.01)")
    buckets = [(float(sample.labels["le"]), sample.value) for sample in Scrape(forebay).samples
               if sample.name == "forebay_query_seconds_bucket" and sample.labels["user"] == "app"]
    assert buckets == sorted(buckets) and buckets[-1][0] == float("inf")
    assert all(low[1] <= high[1] for low, high in zip(buckets, buckets[1:]))
    assert 0.00001 < buckets[0][0] < 0.0002 and buckets[-2][0] > 60


def test_statements_are_put_down_to_the_role_of_their_time(new_cluster, start_forebay):
    cluster = new_cluster(replicas=1)
    forebay = start_forebay(cluster, failover={"mode": "promote"})
    with forebay.connect() as client:
        client.execute("create table t (a int)")
        for _ in range(5):
            client.execute("insert into t values (1)")
        wait_until(lambda: client.execute("select count(*) from t").fetchone(), 10, "a read")
    first = Scrape(forebay)
    to_primary, to_replica = first.sum("forebay_queries_total", target="primary"), first.sum("forebay_queries_total", target="replica")
    forebay.admin("SWITCHOVER main")
    second = Scrape(forebay)
    assert second.sum("forebay_queries_total", target="primary") == to_primary, "the old primary's statements stay the primary's"
    assert second.sum("forebay_queries_total", target="replica") == to_replica
    assert second.sum("forebay_failovers_total", service="main") == 1
    assert second.sum("forebay_failover_gap_seconds_count", service="main") == 1
    assert 0 < second.sum("forebay_failover_gap_seconds_sum", service="main") < 60
    with forebay.connect() as client:
        client.execute("insert into t values (1)")
    assert Scrape(forebay).sum("forebay_queries_total", target="primary") == to_primary + 1


def test_waiting_clients_and_their_wait_are_told(start_forebay):
    forebay = start_forebay(pool={"size": 1, "queue_timeout": "20s"}, routing={"split": False})
    ended = threading.Event()

    def wait_in_line():
        with forebay.connect() as client:
            client.execute("select 1")
        ended.set()

    with forebay.connect() as first:
        first.execute("begin")
        line = threading.Thread(target=wait_in_line)
        line.start()
        wait_until(lambda: Scrape(forebay).sum("forebay_client_waiting", user="app") == 1, 10, "the second to wait")
        assert Scrape(forebay).sum("forebay_clients", user="app", state="waiting") == 1
        assert Scrape(forebay).sum("forebay_server_connections", user="app", state="active") == 1
        waited = time.monotonic()
        first.execute("rollback")
        assert ended.wait(10)
        line.join()
        waited = time.monotonic() - waited
    scrape = Scrape(forebay)
    assert scrape.sum("forebay_client_waiting", user="app") == 0
    assert scrape.sum("forebay_queue_wait_seconds_count", user="app") >= 1
    assert scrape.sum("forebay_queue_clients_total", user="app", outcome="served") >= 1


def test_nodes_that_fail_are_down(new_cluster, start_forebay):
    cluster = new_cluster(replicas=1)
    forebay = start_forebay(cluster)
    scrape = Scrape(forebay)
    assert scrape.all("forebay_node_up") == [1, 1] and scrape.sum("forebay_node_role", role="primary") == 1
    assert scrape.all("forebay_node_lag_bytes", node="pg2") and not scrape.all("forebay_node_lag_bytes", node="pg1")
    cluster.primary.kill()
    wait_until(lambda: Scrape(forebay).sum("forebay_node_up", node="pg1") == 0, 15, "the node to be down")
    scrape = Scrape(forebay)
    assert scrape.sum("forebay_service_has_primary", service="main") == 0
    assert scrape.sum("forebay_node_state", node="pg1", state="down") == 1
    assert scrape.sum("forebay_node_probes_total", node="pg1", result="failure") > 0


def test_pins_bans_and_failed_logins_are_told(start_forebay):
    forebay = start_forebay(config={"security": {"ban_after": 2, "ban_allow": ["192.0.2.1"]}})
    with forebay.connect() as client:
        client.execute("create temporary table mine (a int)")
        scrape = wait_until(lambda: (found := Scrape(forebay)).sum("forebay_pins", user="app") == 1 and found, 10, "the pin")
        assert [sample.labels["reason"] for sample in scrape.samples
                if sample.name == "forebay_pins" and sample.value] != [""]
    wait_until(lambda: Scrape(forebay).sum("forebay_pins", user="app") == 0, 10, "the pin to go")
    forebay.admin("BAN '192.0.2.7'")
    assert Scrape(forebay).sum("forebay_bans") == 1
    with pytest.raises(psycopg.OperationalError):
        forebay.connect(password="wrong").close()
    assert Scrape(forebay).sum("forebay_auth_failures_total") == 1


def test_a_bad_configuration_shows(start_forebay):
    forebay = start_forebay()
    assert Scrape(forebay).sum("forebay_config_reload_success") == 1
    good = forebay.config_file.read_text("utf-8")
    forebay.config_file.write_text("nonsense", "utf-8")
    forebay.reload()
    wait_until(lambda: Scrape(forebay).sum("forebay_config_reload_success") == 0, 10, "the failed reload to show")
    forebay.config_file.write_text(good, "utf-8")
    forebay.reload()
    wait_until(lambda: Scrape(forebay).sum("forebay_config_reload_success") == 1, 10, "the good reload to show")


def test_redis_commands_are_told(start_forebay, shared_redis):
    forebay = start_forebay(servers=None, redis=shared_redis)
    with redis.Redis(port=forebay.redis_port()) as client:
        before = Scrape(forebay)
        for i in range(20):
            client.set(f"metrics:{i}", i)
        after = Scrape(forebay)
    primary = {"class": "primary"}
    assert after.sum("forebay_redis_commands_total", **primary) - before.sum("forebay_redis_commands_total", **primary) >= 20
    assert after.sum("forebay_redis_commands_per_write") >= 1
    assert after.sum("forebay_clients", service="cache", state="active") == 1


def test_hostile_names_do_not_break_the_page(start_forebay):
    forebay = start_forebay(user=[{"name": "app", "password": "app"}, {"name": 'a"b\\}c', "password": "x"}], wait="login")
    with pytest.raises(psycopg.OperationalError):
        forebay.connect(user='a"b\\}c', password="x").close()
    for newer in (True, False):
        assert Scrape(forebay, newer).all("forebay_build_info") == [1]


def test_promtool_is_content(start_forebay):
    """Prometheus' own linter."""
    forebay = start_forebay()
    with forebay.connect() as client:
        client.execute("select 1")
    text = forebay.http("/metrics").body
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
