#!/usr/bin/env bash
# Runs the reliability campaigns in their long form: for minutes instead of seconds as in tests/run.sh, with the limits that
# docs/reliability.md promises.
#
#   tests/chaos.sh                              all end-to-end tests, about half an hour
#   tests/chaos.sh ARG...                       those that `cargo nextest run ARG...` selects, for example: tests/chaos.sh kills::
#   tests/chaos.sh --rabbitmq MAJOR ...         either of these on that RabbitMQ, like tests/run.sh --rabbitmq
#
# MAGNETITE_CHAOS_SEED=N repeats the random choices of a run. The results are printed as a table at the end. All other output
# of the tests is in tests/.cache/chaos.log.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly log=$repository/tests/.cache/chaos.log

export MAGNETITE_CHAOS=long
export MAGNETITE_CHAOS_SEED=${MAGNETITE_CHAOS_SEED:-$(date +%s)}
mkdir -p "${log%/*}"
status=0
rabbitmq=()
if [[ ${1:-} == --rabbitmq ]]; then
    rabbitmq=("${@:1:2}")
    shift "${#rabbitmq[@]}"
fi
# A second filter would add to the selection of the first.
[[ $# -gt 0 ]] || set -- -E 'package(e2e)'
"$repository/tests/run.sh" "${rabbitmq[@]}" --profile chaos --no-fail-fast "$@" >"$log" 2>&1 || status=$?

printf '\nSeed %s, %s\n\n' "$MAGNETITE_CHAOS_SEED" "$(date -u +%F)"
sed -n 's/^run.sh: \(broker .*\)$/\1\n/p' "$log"
printf '| campaign | figures |\n|---|---|\n'
sed -n 's/^ *chaos | \(.*\)$/| \1 |/p' "$log"
printf '\n'
grep -E '^ *(PASS|FAIL|TIMEOUT|Summary) ' "$log" | sed 's/^ */  /' || true
[[ $status -eq 0 ]] || printf '\nchaos.sh: failed with %s: see %s\n' "$status" "$log"
exit "$status"
