# The engine and the images of scripts/test-docker. Sourced by it; uses functions of lib.sh.
#
# Everything lives in $folder: what the engine keeps, what Debian's packages were unpacked to, and its process ids.

folder=${FOREBAY_DOCKER_DIR:-$root/.docker-test}
suite=bookworm
packages='postgresql redis-server redis-tools python3-psycopg2 python3-redis prometheus'

install_engine() {
    (( EUID == 0 )) || die "root rights are needed: containers, and a folder with Debian's packages (debootstrap)"
    without_services install_packages docker.io docker-compose debootstrap binutils iproute2
    mkdir -p "$folder"
    exec 8>"$folder/lock"
    flock -n 8 || die "another run is under way in $folder"
    : >"$folder/log"
}

engine_answers() { docker version; }

# Uses the engine that is there, or starts one that leaves nothing on this machine but its folder: no rules of the firewall,
# and the bridge that it makes is removed.
engine='' bridge=''
start_engine() {
    if engine_answers >/dev/null 2>&1; then
        note "the engine that runs is used"
        return
    fi
    export DOCKER_HOST=unix://$folder/docker.sock
    if engine_answers >/dev/null 2>&1; then
        engine=$(<"$folder/docker.pid")
        note "the engine of a run with --keep is used"
        return
    fi
    mkdir -p "$folder/engine"
    [[ -e /sys/class/net/docker0 ]] || bridge=docker0
    echo '{}' >"$folder/daemon.json"
    rm -f "$folder/docker.pid"
    setsid dockerd --config-file "$folder/daemon.json" --data-root "$folder/engine" --exec-root "$folder/run" \
        --pidfile "$folder/docker.pid" -H "$DOCKER_HOST" --iptables=false --ip6tables=false \
        </dev/null >"$folder/engine.log" 2>&1 8>&- &
    engine=$!
    wait_for 30 "Docker's engine" engine_answers || { tail -n 20 "$folder/engine.log" >&2; die "the engine does not start"; }
    note "an engine was started: $(docker version -f '{{.Server.Version}}'), $(docker info -f '{{.Driver}}')"
}

# Only ours.
stop_engine() {
    [[ $engine ]] || return 0
    kill -TERM "$engine" 2>/dev/null || true
    wait_for 30 "Docker's engine to end" eval "! kill -0 $engine" || true
    [[ -z $bridge ]] || ip link delete "$bridge" 2>/dev/null || true
    local mounted
    while read -r mounted; do umount -l "$mounted"; done < <(awk -v dir="$folder/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r)
    rm -rf "$folder/run" "$folder/docker.sock" "$folder/docker.pid" "$folder/daemon.json"
}

# Debian with the stores and the drivers in it, as a folder. It takes two minutes, once.
make_debian() {
    local tree=$folder/debian
    [[ ! -e $folder/debian.done || $(<"$folder/debian.done") != "$packages" ]] || return 0
    note "fetching Debian's packages, once"
    rm -rf "$tree" "$folder/base" "$folder/debian.done"
    docker image rm -f forebay-test-base forebay-test-stores >>"$folder/log" 2>&1 || true
    quietly debootstrap --variant=minbase "$suite" "$tree"
    cp -a "$tree" "$folder/base"
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
    chmod 755 "$tree/usr/sbin/policy-rc.d"
    cp /etc/resolv.conf "$tree/etc/resolv.conf"
    # shellcheck disable=SC2086 a list
    quietly chroot "$tree" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages
    # The conventions of the official images, as far as compose.yaml uses them: users, folders, what is on the path.
    quietly chroot "$tree" sh -euc '
        apt-get clean
        rm -rf /var/lib/apt/lists/* /var/lib/postgresql /etc/postgresql /var/lib/redis
        usermod --uid 999 postgres
        usermod --uid 998 redis
        install -d -o postgres -g postgres -m 1777 /var/lib/postgresql /var/lib/postgresql/data
        install -d -o postgres -g postgres -m 3777 /run/postgresql
        install -d -o redis -g redis /data
        install -d -o nobody -g nogroup /prometheus
        ln -s /usr/lib/postgresql/*/bin /usr/lib/postgresql/bin'
    echo "$packages" >"$folder/debian.done"
}

# forebay-test-base stands in for Debian's slim image, forebay-test-stores for those of PostgreSQL, Redis, Python and
# Prometheus.
make_images() {
    make_debian
    has_image forebay-test-base ||
        quietly tar_into_image "$folder/base" forebay-test-base
    has_image forebay-test-stores ||
        quietly tar_into_image "$folder/debian" forebay-test-stores \
            --change 'ENV PATH=/usr/lib/postgresql/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }
tar_into_image() { tar -C "$1" -c . | docker import "${@:3}" - "$2"; }
