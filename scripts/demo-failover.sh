# The part of scripts/demo that changes PostgreSQL's primary under writing clients. Sourced by it; uses its functions.

writers=4

# start_writers: each is a psql that writes a row, then the next; lost connections are made again. What a server
# acknowledged is in acked.N, with the time, what was told instead in told.N.
start_writers() {
    local writer
    sql app -c 'create table journal (entry text)'
    rm -f "$demo"/acked.* "$demo"/told.* "$demo/writers.stop"
    writer_pids=()
    for (( writer = 1; writer <= writers; writer++ )); do
        : >"$demo/acked.$writer"
        : >"$demo/told.$writer"
        write_until_stopped "$writer" &
        writer_pids+=($!)
    done
}

write_until_stopped() {
    local turn=0
    while [[ ! -e $demo/writers.stop ]]; do
        turn=$((turn + 1))
        entries "$1-$turn" 2>/dev/null | sql app -v VERBOSITY=sqlstate -f - >>"$demo/acked.$1" 2>>"$demo/told.$1" || true
    done
}

entries() {
    local number=0
    while [[ ! -e $demo/writers.stop ]]; do
        number=$((number + 1))
        echo "insert into journal values ('$1-$number') returning entry, extract(epoch from clock_timestamp());" || return 0
        sleep 0.01
    done
}

stop_writers() {
    touch "$demo/writers.stop"
    wait "${writer_pids[@]}" || true
    writer_pids=()
}

# Those that a failure has left; none waits for what it has sent.
end_writers() {
    if [[ -n ${writer_pids[*]:-} ]]; then
        kill -KILL "${writer_pids[@]}" 2>/dev/null || true
        wait "${writer_pids[@]}" 2>/dev/null || true
    fi
}

now_ms() { local now=$EPOCHREALTIME; echo $(( ${now/[.,]/} / 1000 )); }
acknowledged() { cat "$demo"/acked.* | wc -l; }
serving() { cell HA primary 'service=demo|'; }
waiting_writers() { cell QUEUE waiting 'user=app|'; }

# What Forebay has done to the PostgreSQL nodes, as "event node: detail", the oldest first.
postgres_events() {
    console -A -t -F '|' -c 'SHOW EVENTS' | awk -F '|' -v events='^(primary_lost|primary_leaving|failover_|switchover_|node_fenced|rejoin_|node_unfenced|primary_changed)' '
        $2 == "demo" && $4 ~ events { printf "%s %s: %s\n", $4, $5, $6 }'
}

told_events=0 view_began=0
begin_view() {
    view_began=$(now_ms)
    told_events=$(postgres_events | wc -l)
}

# say TEXT: a line with the seconds since the view began.
say() {
    local passed=$(( $(now_ms) - view_began ))
    printf '   %4d.%d s  %s\n' $((passed / 1000)) $((passed % 1000 / 100)) "$1"
}

tell_new_events() {
    local line all=()
    mapfile -t all < <(postgres_events)
    for line in "${all[@]:told_events}"; do say "$dim${line:0:150}$plain"; done
    told_events=${#all[@]}
}

# watch_until SECONDS WHAT COMMAND...: tells what happens until the command succeeds.
watch_until() {
    local end=$((SECONDS + $1)) what=$2 begun had now count who
    shift 2
    begun=$(now_ms) had=$(acknowledged)
    until "$@" >/dev/null 2>&1; do
        (( SECONDS < end )) || { printf '%swaited in vain for %s%s\n' "$red" "$what" "$plain" >&2; return 1; }
        tell_new_events
        now=$(now_ms)
        if (( now - begun >= 1000 )); then
            count=$(acknowledged) who=$(serving)
            say "primary ${who:-none}, $(( (count - had) * 1000 / (now - begun) )) writes a second, $(waiting_writers) clients wait"
            begun=$now had=$count
        fi
        sleep 0.1
    done
    tell_new_events
}

has_passed() { (( $(now_ms) >= $1 )); }
other_serves() { local who; who=$(serving); [[ -n $who && $who != "$1" ]]; }
serves() { [[ $(serving) == "$1" ]]; }
# Every writer has got more through than it had (numbers of lines, one argument each).
all_write_on() {
    local writer had=("$@")
    for (( writer = 1; writer <= writers; writer++ )); do
        (( $(wc -l <"$demo/acked.$writer") > had[writer - 1] )) || return 1
    done
}
lines_now() { local writer; for (( writer = 1; writer <= writers; writer++ )); do wc -l <"$demo/acked.$writer"; done; }
is_replica() { [[ $(cell NODES role "node=$1|") == replica ]] && state_is "$1" up; }

# What the writers have felt since the lines that each had (arguments): the longest pause, and what they were told.
felt_since() {
    local writer had=("$@") codes
    for (( writer = 1; writer <= writers; writer++ )); do
        tail -n "+${had[writer - 1]}" "$demo/acked.$writer" |
            awk 'last && $2 - last > most { most = $2 - last } { last = $2 } END { print most + 0 }'
    done | sort -g | tail -n 1 | awk '{ printf "   the longest pause of a writer: %.2f s\n", $1 }'
    codes=$(cat "$demo"/told.* | grep -o 'ERROR: *[0-9A-Z]*\|FATAL: *[0-9A-Z]*' |
        awk '{ n[$2]++ } END { for (c in n) { printf "%s%d x %s", s, n[c], c; s = ", " } }' || true)
    note "errors that the writers were told: ${codes:-none}${codes:+ (08007: nobody knows whether that one write is there)}"
}

nothing_is_lost() {
    sql app -c '/* forebay: primary */ select entry from journal' | sort >"$demo/stored"
    cut -d ' ' -f 1 "$demo"/acked.* | sort >"$demo/acknowledged"
    note "$(wc -l <"$demo/acknowledged") rows were acknowledged, $(wc -l <"$demo/stored") are there"
    [[ -z $(comm -23 "$demo/acknowledged" "$demo/stored") && -z $(uniq -d "$demo/stored") ]]
}

show_failover() {
    local before second switchover now=() had=()
    heading "PostgreSQL loses its primary while $writers clients write"
    wait_for 20 "the replicas" is_replica pg3
    start_writers
    begin_view
    before=$(serving)
    ok "all of them write" watch_until 20 "writes" all_write_on 5 5 5 5
    watch_until 10 "a second" has_passed $(( $(now_ms) + 1500 ))
    mapfile -t had < <(lines_now)
    say "${bold}every process of $before is killed (SIGKILL)$plain"
    kill_server "$before"
    ok "another node is the primary: nobody was asked" watch_until 30 "another primary" other_serves "$before"
    mapfile -t now < <(lines_now)
    ok "all of them write on" watch_until 20 "writes" all_write_on "${now[@]}"
    watch_until 10 "a second" has_passed $(( $(now_ms) + 1000 ))
    felt_since "${had[@]}"

    heading "The old primary comes back, and believes to be the primary still"
    begin_view
    # rejoin_command may stop it before anybody has seen it run.
    launch_server "$before"
    ok "it was kept from clients, rewound by rejoin_command, and is a replica now" watch_until 40 "a replica" is_replica "$before"
    view NODES node role state lag_bytes timeline

    heading "A planned change back to $before"
    second=$(serving)
    : | tee "$demo"/told.* >/dev/null
    begin_view
    mapfile -t now < <(lines_now)
    say "${bold}console: SWITCHOVER demo TO $before$plain"
    console -q -c "SWITCHOVER demo TO $before" >"$demo/switchover.txt" 2>&1 &
    switchover=$!
    ok "$before is the primary" watch_until 20 "it to be the primary" serves "$before"
    ok "the console said so, too" wait "$switchover"
    watch_until 10 "a second" has_passed $(( $(now_ms) + 1000 ))
    felt_since "${now[@]}"
    ok "no writer was told of any error" no_errors
    stop_writers
    ok "all that was acknowledged is there, once" nothing_is_lost
    ok "$second follows as a replica" watch_until 40 "a replica" is_replica "$second"
    view HA service mode durability epoch primary timeline
}

no_errors() { ! grep -q . "$demo"/told.*; }
