#!/usr/bin/env bash
# Runs the commands of README.md and docs/*.md, in the order of the pages, as a reader would type them.
#
#   tests/docs.sh [PAGE...]    runs these pages, for example: tests/docs.sh docs/api.md; all of them by default
#
# Runs every `sh` block, and what follows a `$` in a `console` block, unless the line before the block says <!-- not run: WHY -->.
# The commands of a page form one session: an id or a secret that ends in `…` stands for the last one of its kind that was printed, as
# if the reader had copied it. Every command has to succeed; its output is not compared. Each page has its own network, with a broker and
# the customers' HTTPS endpoints, so that all ports and names are those of the page. tests/docs/before has what a page and its
# sections require. Needs the built program (cargo build), a user who may create network namespaces, and curl and openssl.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly repository

die() {
    printf 'docs.sh: %s\n' "$*" >&2
    exit 1
}

# run_page PAGE: runs a page in separate namespaces, so that every process that it starts ends with it.
run_page() {
    local user=() scratch status=0
    [[ $EUID -eq 0 ]] || user=(--user --map-root-user)
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/magnetite-docs.XXXXXX")
    unshare "${user[@]}" --net --mount --pid --fork --kill-child --mount-proc \
        python3 tests/docs/run.py "$1" "$scratch" || status=$?
    rm -rf -- "$scratch"
    return "$status"
}

main() {
    local page failed=0
    if [[ ${1:-} == --help || ${1:-} == -h ]]; then
        sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit
    fi
    cd "$repository"
    [[ -x target/debug/magnetite ]] || die "there is no target/debug/magnetite: cargo build"
    for tool in curl jq openssl python3 unshare ip; do
        command -v "$tool" >/dev/null || die "there is no $tool: apt-get install curl jq openssl python3 util-linux iproute2"
    done
    deploy/local/broker.sh install
    [[ $# -gt 0 ]] || set -- README.md docs/*.md
    for page; do run_page "$page" || failed=1; done
    exit "$failed"
}

main "$@"
