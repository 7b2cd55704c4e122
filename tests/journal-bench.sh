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

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/bench/common.sh
. tests/bench/common.sh

# The default configuration, except that PostgreSQL records when each transaction was committed.
start_postgres() {
    # PostgreSQL's own user needs access to its directory.
    chmod 711 "$servers"
    "$postgres" start "$servers/postgres" >/dev/null
    "$postgres" stop "$servers/postgres"
    echo 'track_commit_timestamp = on' >>"$servers/postgres/data/postgresql.conf"
    MAGNETITE_TEST_POSTGRES_URL=$("$postgres" start "$servers/postgres")
    export MAGNETITE_TEST_POSTGRES_URL
}

main() {
    if [[ ${1:-} == --help || ${1:-} == -h ]]; then
        sed -n '2,14s/^# \{0,1\}//p' tests/journal-bench.sh
        exit
    fi
    build
    start_broker
    start_postgres
    measure journal_bench "$@"
}

main "$@"
