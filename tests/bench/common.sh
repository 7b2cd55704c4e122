# shellcheck shell=bash
# What tests/bench.sh and tests/journal-bench.sh share. They source it in the root of the repository. They start their own servers,
# because tests/run.sh --servers-only does not pass on the broker's process id, and starts PostgreSQL without track_commit_timestamp.

readonly broker=$PWD/deploy/local/broker.sh
readonly postgres=$PWD/deploy/local/postgres.sh
# The directory of the servers; empty until one is started.
servers=

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# Builds the program and the benchmarks.
build() {
    [[ -n $(command -v cargo) || ! -x $HOME/.cargo/bin/cargo ]] || PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "there is no cargo: install Rust, see https://rustup.rs"
    [[ -n $(command -v cc) && -n $(command -v make) ]] ||
        die "there is no C compiler, or no make (SQLite, ring and jemalloc are compiled): apt-get install gcc libc6-dev make"
    say "building in release mode (some minutes the first time)"
    cargo build --quiet --release --locked --package magnetite-cli --package bench --bins >&2
}

# Finds or starts the broker, and stops all servers when the script exits.
start_broker() {
    local name=${0##*/}
    trap stop_servers EXIT
    servers=$(mktemp -d "${TMPDIR:-/tmp}/magnetite-${name%.sh}.XXXXXX")
    MAGNETITE_BROKER__URL=$("$broker" find "$servers/broker")
    export MAGNETITE_BROKER__URL
    say "broker ${MAGNETITE_BROKER__URL##*@}"
}

stop_servers() {
    [[ -n $servers ]] || return 0
    if "$broker" remove "$servers/broker" && { [[ ! -d $servers/postgres/data ]] || "$postgres" stop "$servers/postgres"; }; then
        rm -rf -- "$servers"
    else
        say "a server did not stop: its files are left in $servers"
    fi
}

# measure PROGRAM ARG...: runs a benchmark, which measures the broker too if it was started here.
measure() {
    local program=target/release/$1
    shift
    if [[ -e $servers/broker/node ]]; then set -- "$@" --broker "$servers/broker"; fi
    "$program" "$@"
}
