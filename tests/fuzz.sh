#!/usr/bin/env bash
# Fuzzes the parsers of untrusted input: what publishers, endpoints and customers can send.
#
#   tests/fuzz.sh [SECONDS]     runs each target of tests/fuzz for SECONDS (120), and prints its result
#
# Starts with the small inputs in tests/fuzz/seeds, and continues from what earlier runs have kept in tests/fuzz/corpus,
# which is not in git. An input that fails is left in tests/fuzz/artifacts: fix the cause, and add a test of it to the
# crate. Needs cargo and a C++ compiler. Installs cargo-fuzz if it is missing, with a message. The sanitizers need options
# that a stable compiler has only with RUSTC_BOOTSTRAP=1.
set -euo pipefail

fuzz=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/fuzz" && pwd)
readonly fuzz seconds=${1:-120}
readonly targets=(envelope headers retry_after url)
# Long enough for every rule. The fuzzer is faster with short inputs.
readonly bytes_max=4096
failed=()

say() { printf 'fuzz.sh: %s\n' "$*" >&2; }

if [[ ! $seconds =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
fi
command -v c++ >/dev/null || { say "there is no C++ compiler: install g++"; exit 1; }
if ! cargo fuzz --version >/dev/null 2>&1; then
    say "no cargo-fuzz: compiling it with cargo install (some minutes, once)"
    cargo install cargo-fuzz --locked >&2
fi

cd "$fuzz"
export RUSTC_BOOTSTRAP=1
say "building ${#targets[@]} targets (some minutes the first time)"
cargo fuzz build --fuzz-dir . >&2
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target"
    log=$(mktemp)
    say "$target for $seconds s"
    if cargo fuzz run --fuzz-dir . "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$seconds" -max_len="$bytes_max" -timeout=5 -print_final_stats=1 >"$log" 2>&1; then
        result="no findings"
    else
        result="FAILED: see tests/fuzz/artifacts/$target"
        failed+=("$target")
        tail -n 40 "$log" >&2
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    printf '%-12s %12s executions in %s s, %s\n' "$target" "${executions:-?}" "$seconds" "$result"
    rm -f -- "$log"
done
[[ ${#failed[@]} -eq 0 ]]
