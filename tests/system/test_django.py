"""A Django site on replicas that show commits late: it migrates and sees all that it writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SITE = Path(__file__).parent / "django_site"


def manage(endpoint, *arguments):
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=SITE, capture_output=True, text=True, timeout=150, check=False,
        env={**os.environ, **endpoint.environment(), "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, f"manage.py {' '.join(arguments)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture
def late(cluster):
    for node in cluster.nodes[1:]:
        node.set_apply_delay(2)
    return cluster


@pytest.mark.parametrize("through", ["direct", "forebay", "forebay, pool of two"])
def test_a_site_migrates_and_sees_its_own_writes(late, start_forebay, through):
    pool = {"size": 2} if "two" in through else {}
    endpoint = late.primary if through == "direct" else start_forebay(servers=late, routing={"max_lag": "60s"}, pool=pool)
    applied = manage(endpoint, "migrate", "--no-color")
    assert "shop.0002_orders... OK" in applied and "admin.0001_initial... OK" in applied
    # Each command is a client of its own: what another one wrote it sees when the replicas do.
    late.caught_up()
    assert "No migrations to apply" in manage(endpoint, "migrate", "--no-color")
    assert manage(endpoint, "visit").count("ok") == 8
    late.caught_up()
    manage(endpoint, "migrate", "shop", "zero")
    late.caught_up()
    if through != "direct":
        reads = {row["node_id"]: int(row["select_cnt"]) for row in endpoint.admin("SHOW POOL_NODES")}
        assert sum(reads.values()) > 0
        assert endpoint.wire().value("select count(*) from django_migrations where app = 'shop'") == "0"
