#!/usr/bin/env bash
# A private PostgreSQL for tests and demos.
#
#   postgres.sh start DIR   creates a cluster in DIR (or starts the existing one) and prints only its URL
#   postgres.sh stop DIR    stops that cluster and no other; DIR stays
#   postgres.sh kill DIR    kills it with SIGKILL, which has the effect of a power failure
#
# It listens on a free port of 127.0.0.1, which stays the same after a restart, and on a Unix socket in DIR. It trusts
# every connection, so any user of this machine can connect. PostgreSQL refuses to run as root: if root starts it, it
# runs as the user "postgres".
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly WAIT_S=30
readonly START_TRIES_MAX=5
# Linux accepts socket paths of at most 107 bytes, of which the socket's name takes up to 15.
readonly SOCKET_DIR_BYTES_MAX=90
# Debian runs this program to find out whether it may start a package's service.
readonly POLICY=/usr/sbin/policy-rc.d

say() { printf 'postgres.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

usage() { say "usage: postgres.sh start DIR | stop DIR | kill DIR"; exit 2; }

find_programs() {
    local dir
    for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort --version-sort --reverse) /usr/pgsql-*/bin; do
        if [[ -x $dir/initdb && -x $dir/pg_ctl ]]; then printf '%s\n' "$dir"; return; fi
    done
    if [[ -n $(command -v initdb) && -n $(command -v pg_ctl) ]]; then dirname "$(command -v pg_ctl)"; fi
}

# Debian's package starts its own server during the installation, unless the policy forbids it.
install_programs() {
    [[ $EUID -eq 0 ]] || die "no PostgreSQL here; as root: apt-get install --no-install-recommends postgresql"
    [[ -n $(command -v apt-get) ]] || die "no PostgreSQL here, and no apt-get to install it with"
    say "installing the Debian package postgresql (its own service is not started)"
    if [[ ! -e $POLICY ]]; then
        trap 'rm -f "$POLICY"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$POLICY"
        chmod 755 "$POLICY"
    fi
    {
        apt-get update --quiet
        DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends postgresql
    } >&2
    if [[ -d /run/systemd/system ]]; then systemctl disable --now postgresql >&2 || true; fi
}

as_server_user() {
    if [[ $EUID -eq 0 ]]; then runuser -u postgres -- "$@"; else "$@"; fi
}

is_running() { as_server_user "$bin/pg_ctl" status --pgdata="$dir/data" >/dev/null 2>&1; }

# The port is the fourth line of the pid file.
print_url() { printf 'postgres://postgres@127.0.0.1:%s/postgres\n' "$(sed -n 4p "$dir/data/postmaster.pid")"; }

make_cluster() {
    if [[ $EUID -eq 0 ]]; then chown postgres "$dir"; fi
    as_server_user test -w "$dir" -a -x "$dir" ||
        die "the user postgres cannot write to $dir: choose a directory below one that others may enter, such as /tmp"
    as_server_user "$bin/initdb" --pgdata="$dir/data" --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 \
        >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; die "initdb failed"; }
}

# Returns 1 if the server exits again, for example because the port is in use.
start_on() {
    local port=$1 socket_dir=$dir
    if ((${#dir} > SOCKET_DIR_BYTES_MAX)); then
        say "no Unix socket: the path of $dir is too long for one"
        socket_dir=
    fi
    # Many connections are allowed, because tests run concurrently, each with its own pools.
    as_server_user "$bin/pg_ctl" start --pgdata="$dir/data" --log="$dir/server.log" --wait --timeout="$WAIT_S" --silent \
        -o "-c listen_addresses=127.0.0.1 -c port=$port -c 'unix_socket_directories=$socket_dir' -c max_connections=400" \
        </dev/null >&2 || return 1
    local deadline=$((SECONDS + WAIT_S))
    until "$bin/pg_isready" --quiet --host=127.0.0.1 --port="$port"; do
        ((SECONDS < deadline)) || die "PostgreSQL is not ready after $WAIT_S s; see $dir/server.log"
        sleep 0.1
    done
}

start() {
    bin=$(find_programs)
    if [[ -z $bin ]]; then
        install_programs
        bin=$(find_programs)
    fi
    [[ -n $bin ]] || die "PostgreSQL was installed, but initdb and pg_ctl are nowhere to be found"
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
    cd / # which the server's user may enter, wherever this was called
    [[ $dir != *"'"* ]] || die "the path must not contain a quote: $dir"
    [[ -s $dir/data/PG_VERSION ]] || make_cluster
    if ! is_running; then
        local try port
        for ((try = 1; ; try++)); do
            if ((try == 1)) && [[ -s $dir/port ]]; then port=$(<"$dir/port"); else port=$("$here/free-ports.sh" 1); fi
            if start_on "$port"; then break; fi
            ((try < START_TRIES_MAX)) || { tail -n 20 "$dir/server.log" >&2; die "PostgreSQL does not start"; }
        done
        echo "$port" >"$dir/port"
    fi
    print_url
}

stop() {
    [[ -d $1/data ]] || die "no cluster in $1"
    bin=$(find_programs)
    dir=$(cd "$1" && pwd)
    cd /
    if is_running; then
        as_server_user "$bin/pg_ctl" stop --pgdata="$dir/data" --mode=fast --wait --timeout="$WAIT_S" --silent >&2
    fi
}

# Kills the server first, so that it cannot start more processes, and then the processes that it has started.
kill_all() {
    [[ -d $1/data ]] || die "no cluster in $1"
    bin=$(find_programs)
    dir=$(cd "$1" && pwd)
    cd /
    is_running || return 0
    local server pids pid deadline=$((SECONDS + WAIT_S))
    server=$(head -n 1 "$dir/data/postmaster.pid")
    # The list has no newline at its end, which read reports as a failure.
    read -ra pids <"/proc/$server/task/$server/children" || true
    kill -KILL "$server" "${pids[@]}" 2>/dev/null || true
    for pid in "$server" "${pids[@]}"; do
        # A zombie is dead as well.
        until [[ ! -e /proc/$pid || $(cut -d ' ' -f 3 "/proc/$pid/stat" 2>/dev/null) == Z ]]; do
            ((SECONDS < deadline)) || die "process $pid does not end"
            sleep 0.1
        done
    done
    # With the files left, a zombie would look like a running server.
    rm -f -- "$dir/data/postmaster.pid" "$dir"/.s.PGSQL.*.lock
}

[[ $# -eq 2 && -n $2 ]] || usage
case $1 in
    start) start "$2" ;;
    stop) stop "$2" ;;
    kill) kill_all "$2" ;;
    *) usage ;;
esac
