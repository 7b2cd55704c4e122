#!/usr/bin/env bash
# The parsers of foreign input, under a fuzzer: what publishers, endpoints and customers can send.
#
#   tests/fuzz.sh [SECONDS]     each target of tests/fuzz for SECONDS (120), and what each came to
#
# It begins with the small inputs in tests/fuzz/seeds, and goes on from what earlier runs found worth keeping in
# tests/fuzz/corpus, which is not in git. An input that fails is left in tests/fuzz/artifacts: mend the cause, and make a
# test of it in the crate. Needs cargo and a C++ compiler; installs cargo-fuzz if it is missing, and says so. The
# sanitizers need options that a stable compiler has only with RUSTC_BOOTSTRAP=1.
set -euo pipefail

fuzz=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/fuzz" && pwd)
readonly fuzz seconds=${1:-120}
readonly targets=(envelope headers retry_after url)
# Long enough for every rule; the fuzzer is faster with short ones.
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
