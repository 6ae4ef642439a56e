"""What processes use, and tables about it: shared by the measuring parts of scripts/bench and scripts/bench-redis."""

import dataclasses
import os
import sys

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Target:
    name: str
    port: int
    pid: int


def target(text):
    name, _, where = text.partition("=")
    port, _, pid = where.partition(":")
    return Target(name, int(port), int(pid))


def stat_fields(pid):
    """The fields of /proc/PID/stat from the third on (state, parent, ...); None if the process has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def process_tree(root):
    children = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := stat_fields(entry.name)):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def cpu_seconds(root):
    """User and system time of the tree, with that of ended children that were waited for."""
    ticks = 0
    for pid in process_tree(root):
        if fields := stat_fields(pid):
            utime, stime, children_utime, children_stime = fields[11:15]
            ticks += int(utime) + int(stime) + int(children_utime) + int(children_stime)
    return ticks / TICKS_PER_SECOND


def print_row(out, cells):
    print("| " + " | ".join(map(str, cells)) + " |", file=out, flush=True)


class Tee:
    """Standard output and a file."""

    def __init__(self, path):
        self.file = open(path, "w")

    def write(self, text):
        sys.stdout.write(text)
        self.file.write(text)

    def flush(self):
        sys.stdout.flush()
        self.file.flush()
