# The servers of scripts/demo: PostgreSQL, Redis and Forebay. Sourced by it; uses $demo, $pg_bin, $forebay.
#
# Everything lives in $demo and is found again by its files there, so that no other server is ever touched.

# Where the servers' files go. PostgreSQL does not run as root, so its own user must be able to enter the folder.
demo_folder() {
    local folder=${FOREBAY_DEMO_DIR:-$root/.demo}
    if (( EUID == 0 )) && id postgres >/dev/null 2>&1 && ! as_server_user test -x "$(dirname "$folder")"; then
        folder=/var/tmp/forebay-demo
    fi
    echo "$folder"
}

# Runs a command as the user of the servers, those of Redis too.
as_server_user() {
    if (( EUID == 0 )); then setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; else "$@"; fi
}

# Refuses to go on if a demo is running in $demo; otherwise makes the folder anew.
no_demo_runs() {
    demo=$(demo_folder)
    local node
    for node in pg1 pg2 pg3; do
        ! server_runs "$node" || die "a demo is running in $demo: end it with scripts/demo --stop"
    done
    for node in "${redis_servers[@]}"; do
        ! redis_pid "$node" >/dev/null || die "a demo is running in $demo: end it with scripts/demo --stop"
    done
    forebay_has_ended || die "Forebay runs with $demo/forebay.toml: end it with scripts/demo --stop"
    [[ ! -e $demo || -e $demo/.forebay-demo ]] || die "$demo exists and was not made by scripts/demo"
    rm -rf "$demo"
    mkdir -p "$demo"
    touch "$demo/.forebay-demo"
    chmod 755 "$demo"
    (( EUID != 0 )) || chown postgres:postgres "$demo"
    superuser_password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    (umask 077 && printf '*:*:*:%s:%s\n' postgres "$superuser_password" replicator "$superuser_password" >"$demo/pgpass")
    (( EUID != 0 )) || chown postgres "$demo/pgpass"
}

server_runs() { [[ -f $demo/$1/postmaster.pid ]] && as_server_user "$pg_bin/pg_ctl" -D "$demo/$1" status >/dev/null; }

# make_primary PORT
make_primary() {
    local password_file=$demo/password
    (umask 077 && echo "$superuser_password" >"$password_file")
    (( EUID != 0 )) || chown postgres "$password_file"
    as_server_user "$pg_bin/initdb" -D "$demo/pg1" -U postgres -A scram-sha-256 --pwfile="$password_file" \
        -E UTF8 --locale=C.UTF-8 --no-instructions --no-sync >/dev/null
    rm "$password_file"
    as_server_user tee -a "$demo/pg1/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_wal_senders = 10
shared_buffers = '32MB'
wal_retrieve_retry_interval = '100ms'
wal_log_hints = on
logging_collector = off
CONF
    as_server_user tee -a "$demo/pg1/pg_hba.conf" >/dev/null <<<'host replication replicator 127.0.0.1/32 scram-sha-256'
    echo "$1" >"$demo/pg1.port"
    start_server pg1
    server_sql pg1 "create role app login password 'app'; create role crowd login password 'crowd';
        create role monitor login password 'monitor'; create role replicator login replication password '$superuser_password';
        grant create on schema public to app" >/dev/null
    # What docs/failover.md names.
    server_sql pg1 "create role steward login replication password 'steward';
        grant pg_monitor, pg_signal_backend, pg_checkpoint to steward;
        grant alter system on parameter primary_conninfo, primary_slot_name, default_transaction_read_only to steward;
        grant execute on function pg_promote(boolean, integer), pg_reload_conf(), pg_wal_replay_resume() to steward" >/dev/null
}

# A commit is acknowledged once one replica has it, whichever node is the primary.
make_synchronous() {
    local node
    for node in pg1 pg2 pg3; do
        server_sql "$node" "alter system set synchronous_standby_names = 'ANY 1 (pg1, pg2, pg3)'" >/dev/null
        server_sql "$node" 'select pg_reload_conf()' >/dev/null
    done
}

# The program for rejoin_command: what scripts/rejoin has to know of the servers here.
make_rejoin() {
    local start="$pg_bin/pg_ctl -D $demo/\$FAILED_NODE_NAME -l $demo/\$FAILED_NODE_NAME/server.log -w -o '-p \$FAILED_NODE_PORT' start"
    (( EUID != 0 )) || start="setpriv --reuid=postgres --regid=postgres --init-groups -- $start"
    cat >"$demo/rejoin" <<SH
#!/usr/bin/env bash
# The servers' user has to be able to look where it is.
cd "$demo"
export PGPASSFILE=$demo/pgpass
exec "$root/scripts/rejoin" --data "$demo/\$FAILED_NODE_NAME" --bin "$pg_bin" --replication replicator \\
    --start "$start >/dev/null"
SH
    chmod 755 "$demo/rejoin"
}

# kill_server NAME: SIGKILL to every process, as when the machine loses power.
kill_server() {
    local postmaster
    postmaster=$(head -n 1 "$demo/$1/postmaster.pid")
    kill -STOP "$postmaster"
    # shellcheck disable=SC2046 a list of numbers
    kill -KILL $(cat "/proc/$postmaster/task/$postmaster/children") "$postmaster"
    while kill -0 "$postmaster" 2>/dev/null; do sleep 0.05; done
}

# make_replica NAME PORT
make_replica() {
    as_server_user "$pg_bin/pg_basebackup" -D "$demo/$1" -R --no-sync -c fast -C -S "$1" \
        -d "host=127.0.0.1 port=$(<"$demo/pg1.port") user=replicator password=$superuser_password application_name=$1"
    echo "$2" >"$demo/$1.port"
    start_server "$1"
}

# launch_server NAME: without waiting for it.
launch_server() { start_by_pg_ctl "$1" -W; }

start_by_pg_ctl() {
    as_server_user env PGPASSFILE="$demo/pgpass" "$pg_bin/pg_ctl" -D "$demo/$1" -l "$demo/$1/server.log" "$2" \
        -o "-p $(<"$demo/$1.port")" start >/dev/null 2>&1
}

start_server() {
    start_by_pg_ctl "$1" -w ||
        { tail -n 20 "$demo/$1/server.log" >&2; die "$1 did not start"; }
}

stop_server() { as_server_user "$pg_bin/pg_ctl" -D "$demo/$1" -m fast -w stop >/dev/null; }

# server_sql NAME STATEMENT: as superuser, straight to one server.
server_sql() {
    PGPASSWORD=$superuser_password "$pg_bin/psql" -X -q -At -h 127.0.0.1 -p "$(<"$demo/$1.port")" -U postgres -c "$2" postgres
}

reads_on_both() {
    local node
    for node in pg2 pg3; do
        [[ $(cell POOL_NODES select_cnt "port=$(<"$demo/$node.port")|") -gt 0 ]] || return 1
    done
}

# -- Redis --------------------------------------------------------------------------------------------------------

redis_servers=(redis1 redis2 redis3 sentinel1 sentinel2 sentinel3)

# start_redis NAME PORT LINE...: a Redis server, or a Sentinel if it is named so, with these lines in its configuration.
start_redis() {
    local name=$1 folder=$demo/$1 program=redis-server
    [[ $name != sentinel* ]] || program=redis-sentinel
    as_server_user mkdir "$folder"
    echo "$2" >"$demo/$name.port"
    as_server_user tee "$folder/redis.conf" >/dev/null < <(printf '%s\n' "bind 127.0.0.1" "port $2" "dir $folder" \
        "daemonize yes" "pidfile $folder/pid" "logfile $folder/server.log" "set-proc-title no" "${@:3}")
    as_server_user "$program" "$folder/redis.conf"
    wait_for 10 "$name to answer" redis_says "$name" PONG PING || { tail -n 20 "$folder/server.log" >&2; return 1; }
}

# make_redis PORT PORT PORT: a primary and two replicas.
make_redis() {
    # Without min-replicas-to-write: a new primary would refuse writes until a replica has found it, and the clients of
    # the demo are to wait, not to fail.
    local number settings=('save ""' 'repl-diskless-sync-delay 0')
    start_redis redis1 "$1" "${settings[@]}"
    for number in 2 3; do
        start_redis "redis$number" "${!number}" "${settings[@]}" "replicaof 127.0.0.1 $1"
    done
    for number in 2 3; do
        wait_for 10 "redis$number to be linked" redis_says "redis$number" master_link_status:up INFO replication
    done
}

# make_sentinels PORT PORT PORT: they watch redis1 as mymaster; two of them must agree that it is down.
make_sentinels() {
    local number primary
    primary=$(<"$demo/redis1.port")
    for number in 1 2 3; do
        start_redis "sentinel$number" "${!number}" "sentinel monitor mymaster 127.0.0.1 $primary 2" \
            "sentinel down-after-milliseconds mymaster 1500" "sentinel failover-timeout mymaster 5000"
    done
    wait_for 20 "the Sentinels to know each other and the replicas" sentinels_agree
}

sentinels_agree() {
    local number
    for number in 1 2 3; do
        redis_says "sentinel$number" 'status=ok,.*slaves=2,sentinels=3' INFO sentinel || return 1
    done
}

# redis_server NAME COMMAND...: straight to one server.
redis_server() { redis-cli -h 127.0.0.1 -p "$(<"$demo/$1.port")" "${@:2}"; }

# redis_says NAME PATTERN COMMAND...: a line of the answer matches.
redis_says() { redis_server "$1" "${@:3}" 2>/dev/null | tr -d '\r' | grep -q -- "$2"; }

# The name of the server that the Sentinels call the primary.
redis_primary() {
    local port name
    port=$(redis_server sentinel1 SENTINEL GET-MASTER-ADDR-BY-NAME mymaster | tail -n 1)
    for name in redis1 redis2 redis3; do
        [[ $(<"$demo/$name.port") != "$port" ]] || echo "$name"
    done
}

# The process of a Redis server or Sentinel of ours, if it is still the one that was started.
redis_pid() { pid_in "$demo/$1/pid" "$demo/$1/redis.conf"; }
redis_has_ended() { ! redis_pid "$1" >/dev/null; }

# -- Forebay --------------------------------------------------------------------------------------------------------

start_forebay() {
    "$forebay" run -c "$demo/forebay.toml" </dev/null >"$demo/forebay.log" 2>&1 &
}

# Every Forebay that runs with this configuration, one a line: another one after an upgrade, two of them during it.
forebay_pids() {
    local found
    found=$(grep -laP -- "\x00run\x00-c\x00\Q$demo/forebay.toml\E\x00" /proc/[0-9]*/cmdline 2>/dev/null) || return 1
    sed 's|^/proc/\([0-9]*\)/.*|\1|' <<<"$found"
}
forebay_has_ended() { ! forebay_pids >/dev/null; }

# pid_in FILE WORD: the process of a pid file, if WORD is on its command line.
pid_in() {
    local pid
    [[ -f $1 ]] || return 1
    pid=$(<"$1")
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$2" && echo "$pid"
}

# Returns when Forebay has ended.
wait_for_forebay() {
    forebay_has_ended && die "Forebay is not running: see $demo/forebay.log"
    until forebay_has_ended; do
        # In the background, so that a Ctrl-C is heard at once.
        sleep 1 &
        wait $! || true
    done
    die "Forebay ended by itself: see $demo/forebay.log"
}

# Ends Forebay and all servers, whatever state they are in. Forebay's log stays, data go.
end_servers() {
    local pid pids node
    if pids=$(forebay_pids); then
        for pid in $pids; do kill -TERM "$pid" 2>/dev/null || true; done
        wait_for 5 "Forebay to end" forebay_has_ended || kill -KILL $(forebay_pids) 2>/dev/null || true
    fi
    pg_bin=${pg_bin:-${FOREBAY_PG_BIN:-$(newest_postgresql)}}
    for node in pg3 pg2 pg1; do
        if [[ -n $pg_bin && -f $demo/$node/postmaster.pid ]]; then
            as_server_user "$pg_bin/pg_ctl" -D "$demo/$node" -m immediate -w stop >/dev/null 2>&1 || true
        fi
        [[ ! -e $demo/.forebay-demo ]] || rm -rf "${demo:?}/$node"
    done
    # The Sentinels first, so that they do not take the end of the others for a crash.
    for node in "${redis_servers[@]:3}" "${redis_servers[@]:0:3}"; do
        if pid=$(redis_pid "$node"); then
            kill -KILL "$pid" 2>/dev/null || true
            wait_for 5 "$node to end" redis_has_ended "$node" || true
        fi
        [[ ! -e $demo/.forebay-demo ]] || rm -rf "${demo:?}/$node"
    done
    rm -f "$demo/pgpass"
}
