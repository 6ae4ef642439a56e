"""A plugin for pytest: writes down how each test ended as soon as it has, so that a run that breaks off says what it saw."""

import json


def pytest_addoption(parser):
    parser.addoption("--outcomes", help="file that gets one JSON line a test")


class Outcomes:
    def __init__(self, path):
        self.file = open(path, "w", buffering=1)
        self.seen = {}
        self.seconds = {}

    def pytest_runtest_logreport(self, report):
        # The worst of set-up, call and tear-down counts.
        outcome, reason = self.seen.get(report.nodeid, ("passed", ""))
        if report.outcome != "passed" and outcome != "failed":
            outcome, reason = report.outcome, why(report)
        self.seen[report.nodeid] = outcome, reason
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if report.when == "teardown":
            line = {"test": report.nodeid, "outcome": outcome, "reason": reason}
            print(json.dumps({**line, "seconds": round(self.seconds[report.nodeid], 2)}), file=self.file)


def why(report):
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.strip().splitlines()[0][:400] if text.strip() else ""


def pytest_configure(config):
    if path := config.getoption("--outcomes"):
        config.pluginmanager.register(Outcomes(path))
