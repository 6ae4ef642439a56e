"""Every command of the console: who may give it, and what it leaves in SHOW EVENTS and in the log.

The commands come from SHOW HELP, which a unit test holds to the parser's own list: a new one fails here until it is in
the table below.
"""

import pytest

from harness import wait_until, wire

# By the words of SHOW HELP before its parameters: a statement that succeeds, and what its event says besides the name.
# None: it waits, and changes nothing itself.
COMMANDS = {
    "SET": ("SET query_timeout = '50s'", "setting_changed"),
    "RELOAD": ("RELOAD", "reloaded"),
    "PAUSE": ("PAUSE bench", "paused"),
    "RESUME": ("RESUME bench", "resumed"),
    "DISABLE": ("DISABLE bench", "disabled"),
    "ENABLE": ("ENABLE bench", "enabled"),
    "RECONNECT": ("RECONNECT bench", "reconnected"),
    "KILL": ("KILL bench", "killed"),
    "KILL_CLIENT": ("KILL_CLIENT {client}", "client_killed"),
    "SUSPEND": ("SUSPEND", "suspended"),
    "SHUTDOWN": ("SHUTDOWN", "shutdown"),
    "UPGRADE": ("UPGRADE", "upgraded"),
    "WAIT_CLOSE": ("WAIT_CLOSE bench", None),
    "DETACH NODE": ("DETACH NODE pg3", "detached"),
    "ATTACH NODE": ("ATTACH NODE pg3", "attached"),
    "DRAIN NODE": ("DRAIN NODE pg3", "draining"),
    "SET WEIGHT": ("SET WEIGHT pg3 = 2", "weight_set"),
    "SWITCHOVER": ("SWITCHOVER main TO pg2", "switchover"),
    "FAILOVER": ("FAILOVER main TO pg3 ALLOW DATA LOSS", "failover"),
    "PROMOTE": ("PROMOTE pg2 ALLOW DATA LOSS", "failover"),
    "PAUSE FAILOVER": ("PAUSE FAILOVER main", "paused"),
    "RESUME FAILOVER": ("RESUME FAILOVER main", "resumed"),
    "BAN": ("BAN '203.0.113.7' FOR '1m'", "banned"),
    "UNBAN": ("UNBAN '203.0.113.7'", "unbanned"),
}

# In this order, for some need what others have done.
ORDER = [
    "RELOAD", "SET", "PAUSE", "RESUME", "DISABLE", "ENABLE", "RECONNECT", "WAIT_CLOSE", "KILL_CLIENT", "KILL", "SUSPEND",
    "DETACH NODE", "ATTACH NODE", "DRAIN NODE", "SET WEIGHT", "PAUSE FAILOVER", "RESUME FAILOVER",
    "BAN", "UNBAN",
]
# These change the primary.
CHANGES = ["SWITCHOVER", "FAILOVER", "PROMOTE"]
# The process, and with it its events, has an end after these.
ENDS = ["SHUTDOWN", "UPGRADE"]


def named(form):
    """SWITCHOVER of `SWITCHOVER service [TO node]`."""
    words = []
    for word in form.split():
        if not word.isupper() or not word[0].isalpha():
            break
        words.append(word)
    return " ".join(words)


def known(forebay):
    """The names of the commands in SHOW HELP."""
    forms = [next(iter(row.values())) for row in forebay.admin("SHOW HELP", user="viewer")]
    names = [named(form) for form in forms if not form.startswith(("SHOW ", "EXPLAIN "))]
    assert len(names) > 20, names
    return names


def test_the_table_has_every_command(forebay):
    assert sorted(known(forebay)) == sorted(COMMANDS)
    assert sorted([*ORDER, *CHANGES, *ENDS]) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_viewer_is_refused_and_nothing_happens(forebay, name):
    statement = COMMANDS[name][0].format(client=1)
    before = [row["event"] for row in forebay.admin("SHOW EVENTS")]
    for extended in (False, True):
        with forebay.console(user="viewer") as viewer, pytest.raises(Exception) as refused:
            viewer.execute(statement, prepare=extended) if extended else viewer.execute(statement)
        assert refused.value.sqlstate == "42501"
    after = [row["event"] for row in forebay.admin("SHOW EVENTS")]
    assert [event for event in after if event not in before] == []
    assert forebay.wire().value("select 1") == "1"


def test_without_admins_this_machine_may_look_and_nobody_may_do_anything(start_forebay):
    forebay = start_forebay(config={"admin": {"user": None}}, wait="login")
    console = forebay.wire(dbname="forebay")
    for statement, _ in COMMANDS.values():
        assert wire.errors(console.ask(wire.query(statement.format(client=1)))) == ["42501"], statement
    assert console.run("SHOW POOLS")


def leaves_a_trace(forebay, name):
    statement, event = COMMANDS[name]
    seen = len(forebay.admin("SHOW EVENTS"))
    logged = len(forebay.log())
    if "{client}" in statement:
        client = forebay.wire()
        row = next(row for row in forebay.admin("SHOW CLIENTS") if f"{row['addr']}:{row['port']}" == client.address)
        statement = statement.format(client=row["id"])
    forebay.admin(statement)
    if event is None:
        return

    def new():
        return forebay.admin("SHOW EVENTS")[seen:]

    def by_admin(row):
        return "by admin" in row["detail"] or "admin" in row["detail"].split()

    wait_until(lambda: any(by_admin(row) for row in new()), 15, f"an event of {statement} with the admin's name")
    assert any(by_admin(row) and event in row["event"] for row in new()), f"{statement} leaves {new()}"
    lines = [line for line in forebay.log()[logged:].splitlines() if "admin" in line]
    assert lines, f"{statement} leaves no line with the name in the log"
    if name in ORDER:
        assert not [line for line in lines if " WARN " in line], f"{statement} was ordered: no bad news"


def test_every_command_leaves_an_event_and_a_log_line_with_the_admins_name(start_forebay):
    forebay = start_forebay(database=[{"name": "bench"}, {"name": "other"}])
    for name in ORDER:
        leaves_a_trace(forebay, name)
        if name in ("KILL", "SUSPEND"):
            forebay.admin("RESUME bench" if name == "KILL" else "RESUME")
        if name == "DRAIN NODE":
            forebay.admin("ATTACH NODE pg3")


@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_the_primary_leave_an_event_and_a_log_line_with_the_admins_name(start_forebay, cluster, name):
    forebay = start_forebay(servers=cluster, failover={"mode": "promote", "durability": "best_effort"})
    forebay.wait_measured("pg2", "pg3")
    leaves_a_trace(forebay, name)


def test_the_end_leaves_a_log_line_with_the_admins_name(start_forebay):
    forebay = start_forebay()
    logged = len(forebay.log())
    console = forebay.wire(user="admin", dbname="forebay")
    console.send(wire.query("SHUTDOWN"))
    assert forebay.wait_end() == 0
    assert "by admin" in forebay.log()[logged:]


def test_an_upgrade_leaves_a_log_line_with_the_admins_name(start_forebay):
    forebay = start_forebay()
    logged = len(forebay.log())
    old = forebay.upgrade()
    wait_until(lambda: old.poll() is not None, 20, "the old process to end")
    line = next(line for line in forebay.log()[logged:].splitlines() if 'event="upgraded"' in line)
    assert "by admin" in line
