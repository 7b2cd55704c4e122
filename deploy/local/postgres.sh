#!/usr/bin/env bash
# A private PostgreSQL for tests and demos.
#
#   postgres.sh start DIR   makes a cluster in DIR (or starts the one that is there) and prints its URL, nothing else
#   postgres.sh stop DIR    stops that cluster, and no other; DIR stays
#   postgres.sh kill DIR    ends it with SIGKILL, as a power cut would
#
# It listens on a free port of 127.0.0.1, the same after every start, and on a Unix socket in DIR, and trusts whoever connects: any user of this
# machine can. PostgreSQL refuses to run as root: started by root, it runs as the user "postgres".
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly WAIT_S=30
readonly START_TRIES_MAX=5
# Linux takes socket paths of at most 107 bytes; the socket's name takes up to 15.
readonly SOCKET_DIR_BYTES_MAX=90
# Debian asks this program whether a package's service may be started.
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

# Debian's package starts a server of its own when it is installed, unless the policy denies it.
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

# The fourth line of the pid file is the port.
print_url() { printf 'postgres://postgres@127.0.0.1:%s/postgres\n' "$(sed -n 4p "$dir/data/postmaster.pid")"; }

make_cluster() {
    if [[ $EUID -eq 0 ]]; then chown postgres "$dir"; fi
    as_server_user test -w "$dir" -a -x "$dir" ||
        die "the user postgres cannot write to $dir: choose a directory below one that others may enter, such as /tmp"
    as_server_user "$bin/initdb" --pgdata="$dir/data" --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 \
        >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; die "initdb failed"; }
}

# Returns 1 if the server ended again, as it does when the port is taken.
start_on() {
    local port=$1 socket_dir=$dir
    if ((${#dir} > SOCKET_DIR_BYTES_MAX)); then
        say "no Unix socket: the path of $dir is too long for one"
        socket_dir=
    fi
    # Many connections: tests run side by side, each with pools of its own.
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

# The server first, so that it starts nothing more; then what it had started.
kill_all() {
    [[ -d $1/data ]] || die "no cluster in $1"
    bin=$(find_programs)
    dir=$(cd "$1" && pwd)
    cd /
    is_running || return 0
    local server pids pid deadline=$((SECONDS + WAIT_S))
    server=$(head -n 1 "$dir/data/postmaster.pid")
    # The list ends without a newline, which read calls a failure.
    read -ra pids <"/proc/$server/task/$server/children" || true
    kill -KILL "$server" "${pids[@]}" 2>/dev/null || true
    for pid in "$server" "${pids[@]}"; do
        # What nobody has waited for yet is dead as well.
        until [[ ! -e /proc/$pid || $(cut -d ' ' -f 3 "/proc/$pid/stat" 2>/dev/null) == Z ]]; do
            ((SECONDS < deadline)) || die "process $pid does not end"
            sleep 0.1
        done
    done
    # A dead process that nobody waits for would pass for a running server.
    rm -f -- "$dir/data/postmaster.pid" "$dir"/.s.PGSQL.*.lock
}

[[ $# -eq 2 && -n $2 ]] || usage
case $1 in
    start) start "$2" ;;
    stop) stop "$2" ;;
    kill) kill_all "$2" ;;
    *) usage ;;
esac
