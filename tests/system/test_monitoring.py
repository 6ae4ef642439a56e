"""The dashboard and the alert rules in conf/: every expression parses, and asks only for what Forebay tells."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "conf/grafana/forebay.json").read_text())
RULES = ROOT / "conf/prometheus/forebay-rules.yml"
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool (Debian: prometheus)")


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions():
    """Title and expression of all that the dashboard asks for, its variables filled in."""
    asked = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
    asked += [(annotation["name"], annotation["expr"]) for annotation in DASHBOARD["annotations"]["list"]]
    filled = {"$service": ".*", "$__rate_interval": "1m", "$__interval": "15s"}
    for title, expression in asked:
        for variable, value in filled.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression, (title, expression)
        yield title, expression


def test_the_dashboard_is_sound():
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identifiers) == len(set(identifiers))
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
    for panel in PANELS:
        assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}", panel["title"]


def test_dashboard_and_rules_ask_for_metrics_that_are_documented():
    told = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs/metrics.md").read_text(), re.M))
    rules = RULES.read_text()
    recorded = set(re.findall(r"record: (\S+)", rules))
    asked = "\n".join([rules, *(expression for _, expression in expressions())])
    for name in re.findall(r"\b(?:forebay|process)_\w+", asked):
        assert re.sub(r"_(bucket|sum|count)$", "", name) in told or name in told, name
    for name in re.findall(r"\bforebay:[\w:]+", asked):
        assert name in recorded, name
    assert len(told) > 30


@needs_promtool
def test_every_expression_of_the_dashboard_parses(tmp_path):
    rules = [{"alert": f"Panel{number}", "expr": expression} for number, (_, expression) in enumerate(expressions())]
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    promtool("check", "rules", file)


@needs_promtool
def test_the_alerts_say_what_they_should():
    promtool("check", "config", ROOT / "conf/prometheus/prometheus.yml")
    promtool("test", "rules", ROOT / "tests/monitoring/rules.yml")
