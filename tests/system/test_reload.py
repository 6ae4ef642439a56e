"""A changed configuration takes effect without dropping anyone, all or nothing."""

import pytest

from harness import ports, wait_until, wire

ON_PRIMARY = {"split": False}


def by_hup(forebay):
    forebay.reload()


def by_console(forebay):
    forebay.admin("RELOAD")


@pytest.mark.parametrize("reload", [by_hup, by_console], ids=["HUP", "RELOAD"])
def test_a_larger_pool_serves_those_who_wait(start_forebay, reload):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    holder, waiting = forebay.wire(), forebay.wire()
    holder.run("begin")
    pid = holder.value("select pg_backend_pid()")
    waiting.send(wire.query("select 'served'"))
    forebay.wait_pool(cl_waiting=1)
    forebay.change(pool={"size": 2})
    reload(forebay)
    assert wire.rows(waiting.read_until()) == [["served"]]
    assert holder.value("select pg_backend_pid()") == pid, "a reload disturbs no transaction"
    holder.run("commit")


def test_a_smaller_pool_shrinks_as_work_ends(start_forebay, shared_cluster):
    forebay = start_forebay(pool={"size": 5}, routing=ON_PRIMARY)
    holders = [forebay.wire() for _ in range(5)]
    for holder in holders:
        holder.run("begin")
    forebay.change(pool={"size": 2})
    forebay.admin("RELOAD")
    for holder in holders:
        assert holder.value("select 1") == "1"
        holder.run("commit")
    wait_until(lambda: len(shared_cluster.primary.connections("app", "bench", of=forebay)) <= 2, 15, "the pool to shrink to 2")
    assert [holder.value("select 1") for holder in holders] == ["1"] * 5


def test_users_come_change_and_go(start_forebay):
    forebay = start_forebay(user=[{"name": "app", "password": "app"}])
    here = forebay.wire()
    with pytest.raises(wire.ServerError):
        forebay.wire(user="other")
    forebay.change(user=[{"name": "app", "password": "app"}, {"name": "other", "password": "other"}])
    forebay.admin("RELOAD")
    assert forebay.wire(user="other").value("select current_user") == "other"
    forebay.change(user=[{"name": "app", "password": "app"}])
    forebay.admin("RELOAD")
    with pytest.raises(wire.ServerError):
        forebay.wire(user="other")
    assert here.value("select 1") == "1"


def test_routing_changes_for_clients_that_are_there(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    client = forebay.wire()
    client.run("select 1")
    assert client.value("show forebay.node").endswith("pg1")
    forebay.change(routing={"split": True})
    forebay.admin("RELOAD")
    wait_until(lambda: client.value("select 1") and not client.value("show forebay.node").endswith("pg1"), 10, "reads on a replica")


def test_nodes_come_and_go(start_forebay, shared_cluster):
    forebay = start_forebay(nodes=shared_cluster.addresses[:1])
    client = forebay.wire()
    client.run("select 1")
    cluster = forebay.config["postgres"]["cluster"][0]
    forebay.change(cluster=[{**cluster, "nodes": shared_cluster.addresses}])
    forebay.admin("RELOAD")
    wait_until(lambda: len(forebay.admin("SHOW NODES")) == 3 and forebay.nodes_are_up(), 15, "three nodes")
    wait_until(lambda: client.value("select 1") and not client.value("show forebay.node").endswith("pg1"), 10, "reads on a new replica")
    forebay.change(cluster=[{**cluster, "nodes": shared_cluster.addresses[:2]}])
    forebay.admin("RELOAD")
    wait_until(lambda: len(forebay.admin("SHOW NODES")) == 2, 10, "two nodes")
    assert [client.value("select 1") for _ in range(10)] == ["1"] * 10


def test_a_node_that_leaves_the_middle_of_the_list_gets_no_more_traffic(start_forebay, shared_cluster):
    """The node behind it takes its place in the list, not its connections."""
    forebay = start_forebay(routing={"consistency": "eventual", "balance": "round_robin"}, config={"general": {"threads": 1}})
    client, seen = forebay.wire(), set()

    def reads_on_both():
        client.value("select 1")
        seen.add(client.value("show forebay.node"))
        return len(seen) == 2

    wait_until(reads_on_both, 10, "connections to both replicas")
    holder = forebay.wire()
    holder.run("begin read only")
    primary, _, last = shared_cluster.addresses
    cluster = forebay.config["postgres"]["cluster"][0]
    forebay.change(cluster=[{**cluster, "nodes": [primary, last]}])
    forebay.admin("RELOAD")
    assert holder.value("select 'still served'") == "still served", "a transaction on the node that left may end"
    holder.run("commit")
    ports = {client.value("/* forebay: replica */ select inet_server_port()") for _ in range(20)}
    assert ports == {last.split(":")[1]}, "reads only where the file still has a node"


def test_nodes_may_change_their_order(start_forebay, shared_cluster, table):
    forebay = start_forebay(config={"general": {"threads": 1}})
    client = forebay.wire()
    client.run("select 1")
    client.run(f"insert into {table} (v) values ('before')")
    cluster = forebay.config["postgres"]["cluster"][0]
    forebay.change(cluster=[{**cluster, "nodes": shared_cluster.addresses[::-1]}])
    forebay.admin("RELOAD")
    for _ in range(20):
        assert client.value(f"insert into {table} (v) values ('after') returning not pg_is_in_recovery()") == "t"
    assert client.value(f"select count(*) from {table}") == "21"


def test_a_reload_without_a_change_disturbs_nobody(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    clients = [forebay.wire() for _ in range(5)]
    clients[0].run("begin")
    pid = clients[0].value("select pg_backend_pid()")
    for _ in range(5):
        forebay.reload()
        forebay.admin("RELOAD")
        assert [client.value("select 1") for client in clients] == ["1"] * 5
    assert clients[0].value("select pg_backend_pid()") == pid


BAD = {
    "a syntax error": lambda text: text + "\n[postgres\n",
    "an unknown key": lambda text: text.replace("[postgres.pool]", "[postgres.pool]\nsiez = 4"),
    "a value of the wrong type": lambda text: text.replace("size = 2", 'size = "many"'),
    "a value that makes no sense": lambda text: text.replace("size = 2", "size = 0"),
    "an empty file": lambda _: "",
}


@pytest.mark.parametrize("fault", list(BAD))
def test_a_bad_file_keeps_the_old_configuration_and_says_why(start_forebay, fault):
    """All or nothing: the good changes of a bad file are not applied either."""
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    holder, waiting = forebay.wire(), forebay.wire()
    holder.run("begin")
    waiting.send(wire.query("select 1"))
    forebay.wait_pool(cl_waiting=1)
    forebay.change(pool={"size": 2}, user=[{"name": "app", "password": "app"}])
    text = forebay.config_file.read_text()
    broken = BAD[fault](text)
    assert broken != text
    forebay.config_file.write_text(broken)
    before = len(forebay.log())
    answer = forebay.wire(user="admin", dbname="forebay").ask(wire.query("RELOAD"))
    assert wire.errors(answer), "RELOAD of a bad file is an error"
    told = wire.fields(next(frame for frame in answer if frame.type == "E"))
    assert "forebay.toml" in " ".join(told.values()), "the error names the place"
    forebay.reload()
    forebay.wait_log("forebay.toml", after=before)
    assert waiting.nothing_comes(0.5), "the old pool size holds"
    assert forebay.wire(user="other").value("select 1") == "1", "the old users hold"
    holder.run("commit")
    forebay.config_file.write_text(text)
    forebay.admin("RELOAD")
    with pytest.raises(wire.ServerError):
        forebay.wire(user="other")


def test_a_file_that_vanished_keeps_the_old_configuration(start_forebay):
    forebay = start_forebay()
    forebay.config_file.unlink()
    assert wire.errors(forebay.wire(user="admin", dbname="forebay").ask(wire.query("RELOAD")))
    assert forebay.wire().value("select 1") == "1"


def test_what_needs_a_restart_is_said(start_forebay):
    forebay = start_forebay()
    new_port = ports.free_port()
    forebay.write({**forebay.config, "general": {**forebay.config["general"], "threads": 1}})
    before = len(forebay.log())
    forebay.admin("RELOAD")
    wait_until(lambda: "restart" in forebay.log()[before:], 5, "the log to say that threads needs a restart")
    forebay.change(listen=[f"127.0.0.1:{forebay.port}", f"127.0.0.1:{new_port}"])
    before = len(forebay.log())
    forebay.admin("RELOAD")
    wait_until(
        lambda: "restart" in forebay.log()[before:] or wire.Wire(new_port).login(), 5,
        "a new address to be listened on, or the log to say that it needs a restart")
    assert forebay.wire().value("select 1") == "1"


def test_reloads_under_load_drop_nobody(start_forebay, table):
    forebay = start_forebay(pool={"size": 3})
    clients = [forebay.wire() for _ in range(10)]
    for number in range(20):
        forebay.change(pool={"size": 2 + number % 3})
        for client in clients:
            client.send(wire.query(f"insert into {table} (v) values ('x')"))
        forebay.admin("RELOAD") if number % 2 else forebay.reload()
        for client in clients:
            assert wire.tags(client.read_until()) == ["INSERT 0 1"]
    assert clients[0].value(f"select count(*) from {table}") == "200"
