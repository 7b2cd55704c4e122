#!/usr/bin/env bash
# Measures the worker compared with a raw loop under many loads, how long an event takes, how late failed deliveries are attempted
# again, whether memory grows, and how fast events are published. docs/performance.md says what is measured and why.
#
#   tests/bench.sh [CASE...] [OPTION...]    measures these cases, or all
#   tests/bench.sh --list                   lists the cases
#   tests/bench.sh --plot [--json FILE]     draws docs/performance/*.svg from earlier results
#
#   --rounds N            drains of each side, interleaved (5 where a target depends on it, otherwise 3)
#   --deliveries N        each drain empties a queue of N deliveries, fewer for large bodies and new connections (200000)
#   --seconds N           duration of events at a steady pace, each of which is timed (60)
#   --steady-seconds N    duration of events at a steady pace while the worker's memory is measured (600)
#   --publish N           events that are published in each way (50000)
#   --peak N              half of it is the rate of one of the latencies, unless base is measured (30000)
#   --json FILE           the results, for programs (tests/.cache/bench.json)
#   --profile D           writes D/base-worker-1.data and so on for `perf report -i`, and logs
#   --set V=X             a setting of the worker that differs from the default, for example MAGNETITE_LOG__FILTER=warn
#
# A quick look: tests/bench.sh base latency --deliveries 20000 --rounds 1 --seconds 10. Prints tables in Markdown. Fails if an event was
# lost, delivered twice or left in a queue, but not if it was slow. Needs cargo, and 10 GB of disk below TMPDIR. deploy/local/broker.sh
# finds, starts or installs the broker, deploy/local/postgres.sh PostgreSQL; private ones are stopped at the end. A broker given by
# MAGNETITE_BROKER__URL is used, but its processor time is not known. Nothing else should run on the machine meanwhile.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/bench/common.sh
. tests/bench/common.sh

readonly venv=$PWD/tests/.cache/plot

# plot [--json FILE]: draws the plots with matplotlib, in a virtual environment with exact versions.
plot() {
    local json=tests/.cache/bench.json list=tests/bench/requirements.txt
    if [[ ${1:-} == --json ]]; then json=${2:?name a file}; fi
    [[ -e $json ]] || die "there is no $json: measure first, with tests/bench.sh"
    if [[ ! -e $venv/installed ]] || ! cmp --silent "$list" "$venv/installed"; then
        say "installing what draws into tests/.cache/plot"
        python3 -c 'import ensurepip, venv' 2>/dev/null || die "there is no Python with venv: apt-get install python3-venv"
        rm -rf -- "$venv"
        python3 -m venv "$venv" >&2
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$list" >&2
        cp "$list" "$venv/installed"
    fi
    "$venv/bin/python" tests/bench/plot.py "$json" docs/performance
}

main() {
    case ${1:-} in
        --help | -h)
            sed -n '2,22s/^# \{0,1\}//p' tests/bench.sh
            exit
            ;;
        --plot)
            plot "${@:2}"
            exit
            ;;
    esac
    build
    if [[ ${1:-} == --list ]]; then
        target/release/bench --list
        exit
    fi
    start_broker
    measure bench "$@"
    say "tests/bench.sh --plot draws what was found"
}

main "$@"
