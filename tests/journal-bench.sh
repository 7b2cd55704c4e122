#!/usr/bin/env bash
# Measures how far the journal lags behind, how fast it answers when full, and what deleting costs; see docs/performance.md.
#
#   tests/journal-bench.sh [--attempts N] [--seconds N] [--per-second N]
#
#   --attempts N     attempts stored over 30 days before the queries and before the oldest fifth expires (5000000); 0 for none
#   --seconds N      duration of events at a steady pace, while the lag is measured (60); 0 for none
#   --per-second N   the rate of these events (2000)
#
# A quick look: tests/journal-bench.sh --attempts 200000 --seconds 10. Prints tables in Markdown. Fails if an event was lost or delivered
# twice, or if the books do not balance, but not if it was slow. Needs cargo, and 40 GB of disk below TMPDIR for 5,000,000 attempts.
# deploy/local/broker.sh finds, starts or installs the broker, deploy/local/postgres.sh starts or installs PostgreSQL, and both are
# stopped at the end. Nothing else should run on the machine meanwhile.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly repository
readonly broker=$repository/deploy/local/broker.sh
readonly postgres=$repository/deploy/local/postgres.sh
servers=

say() { printf 'journal-bench.sh: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

stop_servers() {
    [[ -n $servers ]] || return 0
    if "$broker" remove "$servers/broker" && { [[ ! -d $servers/postgres/data ]] || "$postgres" stop "$servers/postgres"; }; then
        rm -rf -- "$servers"
    else
        say "a server did not stop: its files are left in $servers"
    fi
}

build() {
    [[ -n $(command -v cargo) || ! -x $HOME/.cargo/bin/cargo ]] || PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "there is no cargo: install Rust, see https://rustup.rs"
    [[ -n $(command -v cc) && -n $(command -v make) ]] ||
        die "there is no C compiler, or no make (SQLite, ring and jemalloc are compiled): apt-get install gcc libc6-dev make"
    say "building in release mode (some minutes the first time)"
    cargo build --quiet --release --locked --package magnetite-cli --package e2e --bins --example journal_bench >&2
}

# The default configuration, except that PostgreSQL records when each transaction was committed.
start_postgres() {
    "$postgres" start "$servers/postgres" >/dev/null
    "$postgres" stop "$servers/postgres"
    echo 'track_commit_timestamp = on' >>"$servers/postgres/data/postgresql.conf"
    "$postgres" start "$servers/postgres"
}

main() {
    cd "$repository"
    if [[ ${1:-} == --help || ${1:-} == -h ]]; then
        sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit
    fi
    build
    trap stop_servers EXIT
    servers=$(mktemp -d "${TMPDIR:-/tmp}/magnetite-journal-bench.XXXXXX")
    # PostgreSQL's own user needs access to its directory.
    chmod 711 "$servers"
    MAGNETITE_BROKER__URL=$("$broker" find "$servers/broker")
    MAGNETITE_TEST_POSTGRES_URL=$(start_postgres)
    export MAGNETITE_BROKER__URL MAGNETITE_TEST_POSTGRES_URL
    say "broker ${MAGNETITE_BROKER__URL##*@}"
    if [[ -e $servers/broker/broker.pid ]]; then
        set -- "$@" --broker-pid "$(cut -d ' ' -f 1 "$servers/broker/broker.pid")"
    fi
    target/release/examples/journal_bench "$@"
}

main "$@"
