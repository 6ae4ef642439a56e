"""A cluster with Forebay in front of it and writers whose every write is judged: what tests of failover begin with."""

import json

from harness.postgres_ledger import Ledger, one_primary
from harness.waiting import wait_until


def recorded(forebay, cluster="main"):
    """What Forebay has on disk about the primary."""
    file = forebay.folder / "state" / "failover" / f"{cluster}.json"
    return json.loads(file.read_text())["record"] if file.exists() else {"job": None, "astray": [], "unasked": []}


def step_of(record):
    """The step of the job that is under way, with what belongs to it."""
    step = record["job"] and record["job"]["step"]
    return (step, {}) if isinstance(step, str) or not step else next(iter(step.items()))


def wait_step(forebay, *steps, timeout=30):
    """Waits until Forebay is at one of these steps of a change."""
    wait_until(lambda: step_of(recorded(forebay))[0] in steps, timeout, f"a step of {steps}", 0.001)


def events(forebay, name):
    """Details of the events of this name."""
    return [row["detail"] for row in forebay.admin("SHOW EVENTS") if row["event"] == name]


STEPS = ["witnessing", "freezing", "catching_up", "promoting"]


class Scene:
    """A cluster, Forebay, and the ledger; the table of the ledger has to be there."""

    def __init__(self, cluster, forebay, clients=6):
        self.cluster, self.forebay, self.ledger = cluster, forebay, Ledger(forebay, clients)
        self.old = cluster.nodes[0]

    def wait_step(self, step, timeout=30, or_past=False):
        """Waits until Forebay is at this step of a failover, or past it; what it has on disk then."""
        wanted = STEPS[STEPS.index(step):] if or_past else [step]

        def there():
            record = recorded(self.forebay)
            return (step_of(record)[0] in wanted or or_past and record["epoch"] > 1) and record
        return wait_until(there, timeout, f"the step {step}", 0.001)

    def wait_event(self, name, timeout=40):
        """Waits for the first event of this name; its detail."""
        return wait_until(lambda: events(self.forebay, name), timeout, f"the event {name}")[0]

    def candidate(self, record):
        """The node that a record has chosen."""
        place = next(place for place, node in enumerate(self.forebay.config["postgres"]["cluster"][0]["nodes"])
                     if int(node.rsplit(":", 1)[1]) == step_of(record)[1]["candidate"]["port"])
        return self.cluster.nodes[place]

    def primary(self, other_than=None, timeout=60):
        """Waits until a node is the primary in service; the node of the harness."""
        def found():
            name = self.forebay.admin("SHOW HA")[0]["primary"]
            return name != other_than and name
        name = wait_until(found, timeout, f"a primary other than {other_than}")
        return next(node for node in self.cluster.nodes if node.name == name)

    def new_primary(self):
        """Waits for another primary than the first one."""
        return self.primary(other_than=self.old.name)

    def fenced(self, node):
        """Waits until a node is kept from all traffic."""
        wait_until(lambda: self.forebay.node(node.name)["state"] == "fenced", 60, f"{node.name} to be fenced")

    def stays(self, primary, of=30):
        """Clients go on to write, and nobody is promoted."""
        self.ledger.progress(of=of)
        assert not events(self.forebay, "failover_done")
        self.judge(primary, promotions=0)

    def judge(self, primary, promotions=1, may_lose=False):
        """Writers go on; then what they were told is held against what is there. The number of lost rows."""
        self.ledger.progress()
        lost = self.ledger.check(primary, promotions, may_lose)
        one_primary(self.forebay, self.cluster, primary)
        return lost
