"""Drivers of other languages, straight to PostgreSQL and through Forebay: programs that do what applications do.

They come from Debian's packages; `scripts/test` installs them. JDBC and lib/pq speak the protocol in ways of their own,
PHP's two drivers are built on libpq.
"""

import glob
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import rundir

PROGRAMS = Path(__file__).with_name("languages")
COMMON = ["connects", "prepares", "commits and rolls back", "is told of errors", "copies", "listens", "cancels"]
CHECKS = {
    "java": [*COMMON, "batches", "reads by portions", "sees a changed table"],
    "php": [*COMMON, "prepares by PDO", "reads by portions"],
    "go": COMMON,
}


def program(name):
    found = shutil.which(name)
    assert found, f"there is no {name}: `scripts/test` installs the languages and their drivers"
    return found


def java():
    [driver] = glob.glob("/usr/share/java/postgresql.jar")
    # Runs from the source; a small heap that is not tuned starts faster.
    return [program("java"), "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", driver, PROGRAMS / "Driver.java"]


def php():
    return [program("php"), PROGRAMS / "driver.php"]


def go():
    built = rundir.path() / "driver-go"
    with rundir.locked("driver-go"):
        if not built.exists():
            # Debian's packages are not modules.
            subprocess.run(
                [program("go"), "build", "-o", built, PROGRAMS / "driver.go"], check=True, timeout=100,
                env={**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "",
                     "GOCACHE": str(rundir.path() / "go-cache")})
    return [built]


@pytest.fixture(params=["direct", "forebay", "forebay, pool of two"])
def endpoint(request):
    if request.param == "direct":
        return request.getfixturevalue("shared_cluster").primary
    pool = {"size": 2} if "two" in request.param else {}
    return request.getfixturevalue("start_forebay")(pool=pool)


@pytest.mark.parametrize("language", [java, php, go], ids=lambda language: language.__name__)
def test_a_driver_of_another_language_works(endpoint, language, table):
    command = [*map(str, language()), str(endpoint.port), table]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"after {done.stdout.splitlines()[-1:]}:\n{done.stderr}"
    assert sorted(done.stdout.splitlines()) == sorted(CHECKS[language.__name__])
