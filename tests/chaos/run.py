#!/usr/bin/env python3
"""The work of scripts/chaos: a cluster, clients, a fault, and the check of what is left; again and again."""

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))

from harness import Cluster, Forebay, Relay, rundir, wait_until  # noqa: E402
from harness.forebay import configuration  # noqa: E402
from harness.postgres import BadDisk  # noqa: E402
from harness.postgres_ledger import TABLE, Ledger, one_primary  # noqa: E402

class Scene:
    """One cluster with Forebay in front of it, and clients.

    With `strict` a commit waits for one standby, and none that was acknowledged may be lost; without it a crash may cost
    what no replica had yet, which is counted.
    """

    def __init__(self, clients, relayed=False, disk=False, strict=True):
        self.strict, self.lost_rows = strict, 0
        self.cluster = Cluster(fsync=disk)
        self.disk = BadDisk(self.cluster.folder) if disk else None
        self.old = self.cluster.nodes[0]
        if disk:
            self.old.stop()
            self.old.start(env=self.disk.env)
        self.cluster.everywhere(TABLE)
        if strict:
            for node in self.cluster.nodes:
                node.configure(synchronous_standby_names="ANY 1 (pg1, pg2, pg3)")
        self.relays = [Relay(node.port) for node in self.cluster.nodes] if relayed else []
        nodes = [relay.address for relay in self.relays] or self.cluster.addresses
        durability = "strict" if strict else "bounded"
        failover = {"mode": "promote", "hold": "60s", "durability": durability}
        self.forebay = Forebay(configuration(nodes, failover=failover))
        self.ledger = Ledger(self.forebay, clients, pace=0.001)

    def progress(self):
        """Waits until every client has written again."""
        self.ledger.progress(90)

    def primary(self, other_than=None):
        """Waits for a primary that is in service; the node of the harness."""
        def found():
            rows = self.forebay.admin("SHOW HA")
            name = rows[0]["primary"]
            return name if name and name != other_than else None
        name = wait_until(found, 90, "a primary", 0.02)
        return next(node for node in self.cluster.nodes if node.name == name)

    def check(self, primary, promotions):
        """What is there against what the clients were told; the longest time that one of them could not write."""
        self.lost_rows = self.ledger.check(primary, promotions, may_lose=not self.strict)
        one_primary(self.forebay, self.cluster, primary)
        return self.ledger.gap

    def destroy(self):
        """Ends everything."""
        self.ledger.end()
        self.forebay.destroy()
        for relay in self.relays:
            relay.destroy()
        self.cluster.destroy()


def killed(scene, _):
    """Every process of the primary is killed."""
    scene.old.kill()
    return scene.primary("pg1"), 1


def stopped(scene, chance):
    """The primary is stopped in order, or at once."""
    scene.old.stop(chance.choice(["fast", "immediate"]))
    return scene.primary("pg1"), 1


def hung(scene, chance):
    """Every process of the primary stands still, and goes on later."""
    scene.old.pause()
    new = scene.primary("pg1")
    scene.progress()
    time.sleep(chance.choice([0, 1, 5]))
    scene.old.resume()
    wait_until(lambda: scene.forebay.node("pg1")["state"] == "fenced", 60, "the old primary to be fenced")
    return new, 1


def disk_hung(scene, _):
    """Nothing reaches the primary's disk any more."""
    scene.disk.hang()
    try:
        new = scene.primary("pg1")
        scene.progress()
    finally:
        scene.disk.mend()
    return new, 1


def cut_off(scene, chance):
    """Only Forebay cannot reach the primary: the replicas hear it, and nobody is promoted."""
    scene.relays[0].mode = "silent" if chance.random() < 0.5 else "refuse"
    scene.relays[0].cut()
    wait_until(lambda: any(row["event"] == "failover_undone" for row in scene.forebay.admin("SHOW EVENTS")), 60,
               "Forebay to see that it is the one that is cut off")
    scene.relays[0].mode = "pass"
    return scene.primary(), 0


def switched(scene, chance):
    """A switchover."""
    to = chance.choice(["", " TO pg2", " TO pg3"])
    scene.forebay.admin("SWITCHOVER main DRAIN '30s'" + to)
    return scene.primary("pg1"), 1


def candidate_killed(scene, _):
    """A replica dies with the primary."""
    scene.cluster.nodes[1].kill()
    scene.old.kill()
    return scene.primary("pg1"), 1


def forebay_killed(scene, chance):
    """Forebay is killed in the middle of a failover and started again."""
    scene.old.kill()
    time.sleep(chance.uniform(0, 1.2))
    scene.forebay.kill()
    scene.forebay.start(wait="port")
    return scene.primary("pg1"), 1


FAULTS = {
    "killed": (killed, {}),
    "stopped": (stopped, {}),
    "hung": (hung, {}),
    "disk_hung": (disk_hung, {"disk": True}),
    "cut_off": (cut_off, {"relayed": True}),
    "switched": (switched, {}),
    "candidate_killed": (candidate_killed, {"strict": False}),
    "killed_async": (killed, {"strict": False}),
    "hung_async": (hung, {"strict": False}),
    "forebay_killed": (forebay_killed, {}),
}


class Figures:
    """What the runs of one fault have cost."""

    def __init__(self):
        self.gaps, self.codes, self.failed, self.lost, self.rows = [], Counter(), [], 0, 0

    def row(self, name):
        """A row of the table."""
        if not self.gaps:
            return [name, "0", "-", "-", "-", "-", "-", "-", str(len(self.failed))]
        gaps = sorted(self.gaps)
        p99 = gaps[min(len(gaps) - 1, int(len(gaps) * 0.99))]
        codes = ", ".join(f"{code or 'closed'} {n}" for code, n in sorted(self.codes.items(), key=str)) or "none"
        return [name, str(len(gaps)), f"{statistics.median(gaps):.2f}", f"{p99:.2f}", f"{gaps[-1]:.2f}", codes,
                str(self.lost), str(self.rows), str(len(self.failed))]


def run(name, clients, seed, figures):
    """One fault on a cluster of its own."""
    fault, needs = FAULTS[name]
    scene = None
    try:
        scene = Scene(clients, **needs)
        primary, promotions = fault(scene, random.Random(seed))
        scene.progress()
        figures.gaps.append(scene.check(primary, promotions))
        figures.rows += scene.lost_rows
        figures.lost += sum(client.lost_connections for client in scene.ledger.clients)
        figures.codes += scene.ledger.codes
    except Exception as problem:
        print(f"   FAILED, seed {seed}: {problem}", flush=True)
        if scene:
            print("\n".join("      " + line for line in scene.forebay.log().splitlines()[-40:]), flush=True)
        figures.failed.append(seed)
    finally:
        if scene:
            scene.destroy()
        else:
            rundir.stop_everything()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", default=" ".join(FAULTS))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    names = options.only.split()
    if unknown := [name for name in names if name not in FAULTS]:
        listed = "\n".join(f"  {name:18} {fault.__doc__}" for name, (fault, _) in FAULTS.items())
        sys.exit(f"no such fault: {', '.join(unknown)}; there are\n{listed}")
    rounds = options.rounds or (3 if options.hours is None else 10**9)
    end = time.monotonic() + options.hours * 3600 if options.hours else float("inf")
    figures = {name: Figures() for name in names}
    start, done = time.monotonic(), 0
    rundir.create()
    try:
        for number in range(rounds):
            for name in names:
                if time.monotonic() > end:
                    break
                seed = options.seed + number
                begun = time.monotonic()
                run(name, options.clients, seed, figures[name])
                gaps = figures[name].gaps
                told = f"longest gap {gaps[-1]:.2f} s" if gaps else "failed"
                done += 1
                passed = time.monotonic() - start
                of = f"{passed / 60:.1f} of {options.hours * 60:.0f} min" if options.hours else f"{done} of {rounds * len(names)}"
                failed = sum(len(each.failed) for each in figures.values())
                print(f"   {of}{f', {failed} FAILED' if failed else ''}: round {number + 1}, {name}: {told} "
                      f"({time.monotonic() - begun:.0f} s)", flush=True)
            if time.monotonic() > end:
                break
    finally:
        rundir.stop_everything()
        rundir.remove()
    print("\n| fault | runs | gap p50 s | p99 | most | errors of all clients | connections lost | rows lost | failed |")
    print("| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    for name in names:
        print("| " + " | ".join(figures[name].row(name)) + " |")
    for name in names:
        for seed in figures[name].failed:
            print(f"FAILED: {name}; again: scripts/chaos --rounds 1 --only {name} --seed {seed} --clients {options.clients}")
    return 1 if any(each.failed for each in figures.values()) else 0


sys.exit(main())
