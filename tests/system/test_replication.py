"""Replication connections go through to the primary: logical decoding, base backups, and what ends them."""

import os
import signal
import subprocess

import psycopg
import pytest

from harness import wait_until, wire
from harness.postgres import bin_dir


@pytest.fixture
def decoding(new_cluster, start_forebay):
    cluster = new_cluster(settings={"wal_level": "logical"})
    cluster.everywhere("create table w (id bigint primary key, v text); alter table w owner to app; alter role app replication")
    hba = cluster.nodes[0].data / "pg_hba.conf"
    hba.write_text("host replication app 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
    cluster.nodes[0].sql("select pg_reload_conf()")
    return cluster, start_forebay(servers=cluster, pool={"size": 2}, failover={"mode": "promote", "hold": "20s"})


def program(forebay, name, *arguments, dbname=None, **more):
    """A client program of PostgreSQL's, at Forebay."""
    command = [bin_dir() / name, "-h", "127.0.0.1", "-p", str(forebay.port), "-U", "app", *arguments]
    if dbname:
        command += ["-d", dbname]
    return subprocess.Popen(command, env={**os.environ, "PGPASSWORD": "app"}, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **more)


def done(process, timeout=60):
    out, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return out


@pytest.fixture
def stream(decoding, tmp_path):
    """A client that decodes into a file."""
    _, forebay = decoding
    done(program(forebay, "pg_recvlogical", "--slot", "s", "--create-slot", "--plugin", "test_decoding", dbname="bench"))
    file = tmp_path / "changes"
    process = program(forebay, "pg_recvlogical", "--slot", "s", "--start", "-f", str(file), "--no-loop",
                      dbname="bench")
    yield process, lambda: file.read_text() if file.exists() else ""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)


def test_changes_are_decoded_while_others_write_through_the_same_pool(decoding, stream):
    _, forebay = decoding
    _, changes = stream
    with psycopg.connect(forebay.dsn(), autocommit=True) as writer:
        for n in range(1, 51):
            writer.execute("insert into w values (%s, repeat('x', 1000))", [n])
    wait_until(lambda: changes().count("INSERT") == 50, 20, "all changes")
    [client] = [row for row in forebay.admin("SHOW CLIENTS") if row["application_name"] == "pg_recvlogical"]
    assert client["state"] == "active"
    assert [row["state"] for row in forebay.admin("SHOW SERVERS") if row["link"] == client["ptr"]] in ([], ["active"])


def test_a_base_backup_is_taken_through_it(decoding, tmp_path):
    cluster, forebay = decoding
    folder = tmp_path / "backup"
    done(program(forebay, "pg_basebackup", "-D", str(folder), "-X", "stream", "--checkpoint=fast"))
    assert (folder / "PG_VERSION").exists() and (folder / "backup_manifest").stat().st_size > 1000
    assert cluster.nodes[0].sql("select from pg_stat_replication where application_name = 'pg_basebackup'") == []


def test_a_walsender_takes_commands_and_is_refused_what_it_may_not(decoding):
    _, forebay = decoding
    with wire.Wire(forebay.port, params={"replication": "database"}) as client:
        client.login()
        [row] = wire.rows(client.ask(wire.query("IDENTIFY_SYSTEM")))
        assert row[1] == "1" and row[3] == "bench"
        assert wire.errors(client.ask(wire.query("IDENTIFY_NOTHING"))) == ["42601"]
        assert wire.rows(client.ask(wire.query("select 1"))) == [["1"]]
    other = wire.Wire(forebay.port, user="other", params={"replication": "database"})
    with pytest.raises(wire.ServerError, match="must be superuser or replication role|permission denied") as refused:
        other.login()
    assert refused.value.sqlstate == "42501"
    ordinary = wire.Wire(forebay.port, params={"replication": "false"}).login()
    assert ordinary.value("select 1") == "1"


def test_it_ends_with_its_primary_and_can_be_made_again(decoding, stream):
    cluster, forebay = decoding
    process, _ = stream
    wait_until(lambda: cluster.nodes[0].sql("select from pg_replication_slots where slot_name = 's' and active"), 20, "the stream")
    cluster.caught_up()
    forebay.admin("SWITCHOVER main")
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and errors
    # Slots of the old primary are not on the new one.
    done(program(forebay, "pg_recvlogical", "--slot", "t", "--create-slot", "--plugin", "test_decoding", dbname="bench"))


def test_it_ends_with_its_client_and_by_an_admin_s_order(decoding, stream):
    cluster, forebay = decoding
    process, _ = stream
    active = "select from pg_replication_slots where slot_name = 's' and active"
    wait_until(lambda: cluster.nodes[0].sql(active), 20, "the stream")
    with wire.Wire(forebay.port, params={"replication": "database"}) as client:
        client.login()
        assert len(cluster.nodes[0].sql("select from pg_stat_activity where backend_type = 'walsender' and usename = 'app'")) == 2
    wait_until(lambda: len(cluster.nodes[0].sql(
        "select from pg_stat_activity where backend_type = 'walsender' and usename = 'app'")) == 1, 20, "the other to end")
    [client] = [row["id"] for row in forebay.admin("SHOW CLIENTS") if row["application_name"] == "pg_recvlogical"]
    forebay.admin(f"KILL_CLIENT {client}")
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and errors
    wait_until(lambda: not cluster.nodes[0].sql(active), 20, "the slot to be free")
