# What scripts/test and scripts/demo share: printing, installing what is missing, free ports. Sourced, not run.

export LC_ALL=C.UTF-8
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RUST_NEEDED=1.95

if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; else bold='' dim='' red='' green='' plain=''; fi

# A heading with the seconds since the script started.
heading() { printf '\n%s== %s%s %s(%d s)%s\n' "$bold" "$*" "$plain" "$dim" "$SECONDS" "$plain"; }
note() { printf '   %s\n' "$*"; }
die() { printf '%s%s%s\n' "$red" "$*" "$plain" >&2; exit 1; }

# Runs a command as root: as we are, or by sudo.
as_root() {
    if (( EUID == 0 )); then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "root rights are needed for: $* (run as root or install sudo)"
    fi
}

# Installs the Debian packages among the arguments that are not there yet.
install_packages() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    (( ${#missing[@]} )) || return 0
    command -v apt-get >/dev/null || die "please install: ${missing[*]} (this is not a Debian system)"
    note "installing ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# PostgreSQL's server programs; $pg_bin is where they are. A cluster that the package starts is left alone.
install_postgresql() {
    pg_bin=${FOREBAY_PG_BIN:-}
    [[ -n $pg_bin ]] || pg_bin=$(newest_postgresql)
    if [[ -z $pg_bin ]]; then
        install_packages postgresql
        pg_bin=$(newest_postgresql)
    fi
    [[ -x $pg_bin/initdb && -x $pg_bin/pgbench ]] || die "no initdb and pgbench in '$pg_bin': set FOREBAY_PG_BIN"
    export FOREBAY_PG_BIN=$pg_bin
}

newest_postgresql() {
    local found
    found=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1)
    if [[ -x $found ]]; then dirname "$found"
    elif command -v initdb >/dev/null; then dirname "$(readlink -f "$(command -v initdb)")"
    fi
}

# Runs a command that installs packages: what runs on this machine already stays as it is, and nothing new is started:
# while policy-rc.d says 101, a package leaves its service stopped.
without_services() (
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        as_root install -m 755 /dev/stdin "$policy" <<<$'#!/bin/sh\nexit 101'
        trap 'as_root rm -f "$policy"' EXIT
    fi
    "$@"
)

# Redis' server, Sentinel and command line.
install_redis() {
    command -v redis-server >/dev/null && command -v redis-sentinel >/dev/null && command -v redis-cli >/dev/null && return
    without_services install_packages redis-server redis-sentinel redis-tools
    command -v redis-sentinel >/dev/null || die "no redis-sentinel: install it beside redis-server"
}

# etcd's server and command line.
install_etcd() { without_services install_packages etcd-server etcd-client; }

# OpenLDAP's server and command line. The package's own folder of data is left alone.
install_slapd() { without_services install_packages slapd ldap-utils; }

# Prometheus' checker of metrics, rules and configurations.
install_promtool() { command -v promtool >/dev/null || without_services install_packages prometheus; }

# Other languages and their drivers, for tests/system/languages: JDBC, PHP and Go.
install_languages() {
    install_packages default-jdk-headless libpostgresql-jdbc-java php-cli php-pgsql golang-go golang-github-lib-pq-dev
}

# A browser for the tests of the status page, and what drives it.
install_browser() {
    install_packages chromium chromium-driver fonts-dejavu-core
}

# The Python of the tests, with their drivers and tools, in .venv of the source.
install_python() {
    install_packages python3 python3-venv
    cd "$root"
    local wanted stamp=.venv/installed
    wanted=$(sha256sum tests/system/requirements.txt)
    [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return 0
    note "installing the drivers and tools of tests/system/requirements.txt into .venv"
    python3 -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/system/requirements.txt
    echo "$wanted" >"$stamp"
}

# A Rust compiler that is new enough, and what it links with.
install_rust() {
    install_packages build-essential pkg-config
    [[ -d $HOME/.cargo/bin ]] && PATH=$HOME/.cargo/bin:$PATH
    if ! command -v cargo >/dev/null; then
        as_root apt-get update -q >/dev/null || true
        if apt-cache show rustup >/dev/null 2>&1; then
            install_packages rustup
            rustup toolchain install stable --profile default --no-self-update
        else
            install_packages cargo
        fi
    fi
    local version
    version=$(rustc --version | cut -d ' ' -f 2)
    [[ $(printf '%s\n' "$RUST_NEEDED" "$version" | sort -V | head -n 1) == "$RUST_NEEDED" ]] ||
        die "rustc $version is too old, $RUST_NEEDED or newer is needed: install the stable toolchain with rustup"
}

# The release build; $forebay is the program.
build_forebay() {
    (cd "$root" && cargo build --release --locked) || return 1
    forebay=${CARGO_TARGET_DIR:-$root/target}/release/forebay
    export FOREBAY_BIN=$forebay
}

# Every test makes clusters of many small files. In memory, should there be enough of it, that takes a tenth of the time.
memory_for_tests() {
    local free available
    free=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)
    available=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)
    ! grep -q ' /dev/shm .*noexec' /proc/mounts || return 0
    if (( ${free:-0} > 6000000 && ${available:-0} > 10000000 )); then export FOREBAY_TEST_DIR=${FOREBAY_TEST_DIR:-/dev/shm}; fi
}

# Prints the first of the given ports and those after it on which nobody listens on loopback.
free_port() {
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

# wait_for SECONDS WHAT COMMAND...: runs the command until it succeeds.
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        (( SECONDS < end )) || { printf '%swaited in vain for %s%s\n' "$red" "$what" "$plain" >&2; return 1; }
        sleep 0.1
    done
}
