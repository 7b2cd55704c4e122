#!/usr/bin/env bash
# The worker beside a raw loop, how long an event is on its way, and how fast events are published. docs/performance.md says what is measured and why.
#
#   tests/bench.sh [--events N] [--rounds N] [--seconds N] [--publish N] [--profile DIRECTORY]
#       [--set VARIABLE=VALUE]...
#
#   --events N     each drain empties a queue of N events (200000)
#   --rounds N     drains of each side, interleaved; 0 for none (5)
#   --seconds N    of 100 events/s, timed one by one; 0 for none (60)
#   --publish N    events that are published, with the producer crate, over HTTP and in batches; 0 for none (50000)
#   --profile D    leaves D/raw.data and D/worker.data for `perf report -i`, and D/worker.log
#   --set V=X      a setting of the worker that is not the default, for example MAGNETITE_LOG__FILTER=warn
#
# A short one: tests/bench.sh --events 20000 --rounds 1 --seconds 10 --publish 5000. Prints tables in Markdown. Fails if an event was lost,
# came twice or was left in a queue; slow is not failed. Needs cargo; the broker is found, started or installed by
# deploy/local/broker.sh, and a private one ends with this script. Let nothing else run meanwhile.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly repository
readonly broker=$repository/deploy/local/broker.sh
servers=

say() { printf 'bench.sh: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

stop_broker() {
    [[ -n $servers ]] || return 0
    if "$broker" remove "$servers/broker"; then
        rm -rf -- "$servers"
    else
        say "the broker did not stop: its files are left in $servers"
    fi
}

build() {
    [[ -n $(command -v cargo) || ! -x $HOME/.cargo/bin/cargo ]] || PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "there is no cargo: install Rust, see https://rustup.rs"
    command -v cc >/dev/null || die "there is no C compiler (SQLite and ring are compiled): apt-get install gcc libc6-dev"
    say "building in release mode (some minutes the first time)"
    cargo build --quiet --release --locked --package magnetite-cli --package e2e --bins --example bench >&2
}

main() {
    cd "$repository"
    if [[ ${1:-} == --help || ${1:-} == -h ]]; then
        sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit
    fi
    build
    trap stop_broker EXIT
    servers=$(mktemp -d "${TMPDIR:-/tmp}/magnetite-bench.XXXXXX")
    MAGNETITE_BROKER__URL=$("$broker" find "$servers/broker")
    export MAGNETITE_BROKER__URL
    say "broker ${MAGNETITE_BROKER__URL##*@}"
    target/release/examples/bench "$@"
}

main "$@"
