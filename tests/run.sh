#!/usr/bin/env bash
# Runs everything that CI checks, in the same way on a developer's machine: a Debian 12 with Rust is enough.
#
#   tests/run.sh                                 all checks, cheap ones first, until the first failure
#   tests/run.sh ARG...                          only the tests that `cargo nextest run ARG...` selects,
#                                                for example: tests/run.sh -E 'test(/rotate/)'
#   tests/run.sh --servers-only -- COMMAND...    COMMAND, with the servers running and the variables below set
#   tests/run.sh --rabbitmq MAJOR ...            any of these on RabbitMQ 3.x or 4.x: the system's own if it has that
#                                                version, otherwise another Debian's, in tests/.cache (needs root)
#
# Missing tools are installed, with a message. The tests find their environment through these variables. Those that
# name a server are not changed if they are set:
#   MAGNETITE_BROKER__URL          otherwise the broker that deploy/local/broker.sh finds or starts
#   MAGNETITE_TEST_POSTGRES_URL    otherwise a private PostgreSQL, from deploy/local/postgres.sh
#   MAGNETITE_TEST_PYTHON          a Python with tests/{receivers/python,openapi}/requirements.txt
#   MAGNETITE_TEST_NODE_PATH       NODE_PATH with tests/receivers/node/package-lock.json
#   MAGNETITE_TEST_SPECTRAL        the linter of tests/openapi/package-lock.json
#   MAGNETITE_TEST_PROMTOOL        Prometheus' promtool
# Servers that this script starts use a temporary directory and are stopped when the script exits.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly repository
readonly cache=$repository/tests/.cache
readonly broker=$repository/deploy/local/broker.sh
readonly postgres=$repository/deploy/local/postgres.sh
servers=
# The argument of --rabbitmq.
rabbitmq=
results=()

say() { printf 'run.sh: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# ---- Tools ---------------------------------------------------------------------------------------------------

# apt_install REASON PACKAGE...
apt_install() {
    local reason=$1
    shift
    say "$reason: installing with apt-get: $*"
    apt_update "$@"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2
}

# apt_update PACKAGE...: updates apt-get's package lists before PACKAGE is installed, and sets as_root.
apt_update() {
    as_root=()
    command -v apt-get >/dev/null || die "there is no apt-get: install by hand: $*"
    if [[ $EUID -ne 0 ]]; then
        command -v sudo >/dev/null || die "neither root nor sudo: install by hand: $*"
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -q >&2
}

need_rust() {
    local component
    [[ -n $(command -v cargo) || ! -x $HOME/.cargo/bin/cargo ]] || PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "there is no cargo: install Rust, see https://rustup.rs"
    [[ -n $(command -v cc) && -n $(command -v make) ]] ||
        apt_install "no C compiler, or no make (SQLite, ring and jemalloc are compiled)" gcc libc6-dev make
    for component in fmt:rustfmt clippy:clippy; do
        if ! cargo "${component%:*}" --version >/dev/null 2>&1; then
            say "no cargo ${component%:*}: adding it with rustup"
            rustup component add "${component#*:}" >&2
        fi
    done
    if ! cargo nextest --version >/dev/null 2>&1; then
        say "no cargo-nextest: compiling it with cargo install (some minutes, once)"
        cargo install cargo-nextest --locked >&2
    fi
}

# A debug build takes half as long to compile, and checks the dependencies in seconds as well.
need_deny() {
    if ! cargo deny --version >/dev/null 2>&1; then
        say "no cargo-deny: compiling it with cargo install (some minutes, once)"
        cargo install cargo-deny --locked --debug >&2
    fi
}

need_shellcheck() {
    command -v shellcheck >/dev/null || apt_install "no shellcheck" shellcheck
}

# Needed for certificates of kinds that the tests' own library cannot create, and for commands in the
# documents.
need_openssl() {
    command -v openssl >/dev/null || apt_install "no openssl" openssl
}

# tests/docs.sh runs the commands that the documents show to readers.
need_documents() {
    local tool
    for tool in curl jq ip; do
        command -v "$tool" >/dev/null || apt_install "no $tool" curl jq iproute2
    done
    # Each page has a broker in its own network.
    "$broker" install
}

# tests/tests/it/ssrf.rs traces the program's system calls.
need_strace() {
    command -v strace >/dev/null || apt_install "no strace" strace
}

# fresh MARK FILE...: succeeds if MARK was written for exactly these contents.
fresh() { [[ -e $1 && $(cat -- "${@:2}" | sha256sum) == "$(cat -- "$1")" ]]; }

# Some tests put it between the roles and PostgreSQL.
need_pgbouncer() {
    command -v pgbouncer >/dev/null || apt_install "no pgbouncer" pgbouncer
}

# Installs the Python packages of the tests in a virtual environment, with exact versions.
need_python() {
    local venv=$cache/python
    local lists=("$repository/tests/receivers/python/requirements.txt" "$repository/tests/openapi/requirements.txt")
    python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install "no Python with venv" python3-venv
    export MAGNETITE_TEST_PYTHON=$venv/bin/python
    if ! fresh "$venv/installed" "${lists[@]}" || ! "$MAGNETITE_TEST_PYTHON" -c '' 2>/dev/null; then
        say "installing the Python packages of the tests into tests/.cache/python"
        rm -rf -- "$venv"
        python3 -m venv "$venv" >&2
        "$MAGNETITE_TEST_PYTHON" -m pip install --quiet --disable-pip-version-check "${lists[@]/#/--requirement=}" >&2
        cat "${lists[@]}" | sha256sum >"$venv/installed"
    fi
}

# Installs Node.js and the packages of the tests.
need_node() {
    [[ -n $(command -v node) && -n $(command -v npm) ]] || apt_install "no Node.js with npm" nodejs npm
    need_node_modules receivers/node node
    need_node_modules openapi openapi
    export MAGNETITE_TEST_NODE_PATH=$cache/node/node_modules
    export MAGNETITE_TEST_SPECTRAL=$cache/openapi/node_modules/.bin/spectral
}

# need_node_modules FROM TO: installs exactly what the lock file in tests/FROM specifies, in tests/.cache/TO.
need_node_modules() {
    local from=$repository/tests/$1 modules=$cache/$2
    if ! fresh "$modules/installed" "$from/package.json" "$from/package-lock.json"; then
        say "installing the Node.js packages of tests/$1 into tests/.cache/$2"
        rm -rf -- "$modules"
        mkdir -p "$modules"
        cp "$from/package.json" "$from/package-lock.json" "$modules"
        npm ci --prefix "$modules" --no-audit --no-fund --ignore-scripts >&2
        cat "$from/package.json" "$from/package-lock.json" | sha256sum >"$modules/installed"
    fi
}

# For the PHP and Go receivers of docs/receiving.md. Neither needs any packages.
need_php() {
    php -r 'exit(extension_loaded("pdo_sqlite") ? 0 : 1);' 2>/dev/null || apt_install "no PHP with SQLite" php-cli php-sqlite3
}

need_go() {
    command -v go >/dev/null || apt_install "no Go" golang-go
}

# Installs Prometheus' linter for /metrics: only this program of its package, without the server.
need_promtool() {
    local new
    export MAGNETITE_TEST_PROMTOOL=$cache/promtool
    if command -v promtool >/dev/null; then
        MAGNETITE_TEST_PROMTOOL=$(command -v promtool)
    elif [[ ! -x $MAGNETITE_TEST_PROMTOOL ]]; then
        say "fetching promtool from Debian's package prometheus into tests/.cache"
        apt_update "promtool, a part of Prometheus"
        mkdir -p "$cache"
        new=$(mktemp -d "$cache/promtool.XXXXXX")
        if ! (cd "$new" && apt-get download -q prometheus && dpkg-deb --extract prometheus_*.deb .) >&2; then
            rm -rf -- "$new"
            die "promtool cannot be fetched: what apt-get said is above"
        fi
        mv "$new/usr/bin/promtool" "$MAGNETITE_TEST_PROMTOOL"
        rm -rf -- "$new"
    fi
}

# Makes broker.sh start nodes of the version given by --rabbitmq, including those that tests start themselves.
need_rabbitmq() {
    local suite root=$cache/rabbitmq-$rabbitmq new installed
    case $rabbitmq in
        3) suite=bookworm ;;
        4) suite=trixie ;;
        *) die "--rabbitmq takes 3 or 4, and not \"$rabbitmq\"" ;;
    esac
    [[ -z ${MAGNETITE_BROKER__URL:-} ]] || die "--rabbitmq starts a broker, and MAGNETITE_BROKER__URL names one: give one of them"
    # The tests check the version of every broker that they connect to, see tests/src/amqp.rs.
    export MAGNETITE_TEST_RABBITMQ=$rabbitmq
    installed=$(dpkg-query --show --showformat '${db:Status-Status} ${Version}' rabbitmq-server 2>/dev/null) || true
    # A value set by the user takes precedence. The version is checked in any case.
    [[ -z ${MAGNETITE_RABBITMQ_ROOT:-} && $installed != "installed $rabbitmq."* ]] || return 0
    [[ $EUID -eq 0 ]] || die "--rabbitmq $rabbitmq needs root: the system's own is \"${installed:-not installed}\", and another is run by chroot"
    if [[ ! -d $root ]]; then
        command -v debootstrap >/dev/null || apt_install "no debootstrap" debootstrap
        say "installing RabbitMQ $rabbitmq.x from Debian $suite into tests/.cache/${root##*/} (500 MB, once)"
        mkdir -p "$cache"
        new=$(mktemp -d "$root.XXXXXX")
        chmod 755 "$new"
        if ! debootstrap --variant=minbase --include=rabbitmq-server "$suite" "$new" "$(debian_mirror)" >&2; then
            rm -rf --one-file-system -- "$new"
            die "debootstrap failed: what it said is above"
        fi
        # A concurrent run may have been faster.
        mv --no-target-directory "$new" "$root" 2>/dev/null || rm -rf --one-file-system -- "$new"
    fi
    export MAGNETITE_RABBITMQ_ROOT=$root
}

# Prints the mirror of this machine's own packages; nothing if it is not Debian, since debootstrap then has a
# default.
debian_mirror() {
    # shellcheck disable=SC2016 # for apt
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | sed -n 1p
}

# ---- Servers -------------------------------------------------------------------------------------------------

# Also called if the servers have not started; every part of it does nothing then.
stop_servers() {
    [[ -n $servers ]] || return 0
    if "$broker" remove "$servers/broker" && stop_postgres; then
        rm -rf -- "$servers"
    else
        say "a server did not stop: its files are left in $servers"
    fi
}

stop_postgres() {
    if [[ -d $servers/postgres/data ]]; then "$postgres" stop "$servers/postgres"; fi
}

# Checks each command's result itself, because `step` calls this function with `set -e` off.
start_servers() {
    servers=$(mktemp -d "${TMPDIR:-/tmp}/magnetite-tests.XXXXXX") || return
    # If root starts PostgreSQL, it runs as another user, which needs access to this directory.
    chmod 711 "$servers" || return
    MAGNETITE_BROKER__URL=$("$broker" find "$servers/broker") || return
    if [[ -z ${MAGNETITE_TEST_POSTGRES_URL:-} ]]; then
        MAGNETITE_TEST_POSTGRES_URL=$("$postgres" start "$servers/postgres") || return
    fi
    export MAGNETITE_BROKER__URL MAGNETITE_TEST_POSTGRES_URL
    # Shown without users and passwords.
    say "broker ${MAGNETITE_BROKER__URL##*@}$(version_of_node), PostgreSQL ${MAGNETITE_TEST_POSTGRES_URL##*@}"
    [[ -z $rabbitmq || $(version_of_node) == *" $rabbitmq."* ]] || die "this is not the RabbitMQ $rabbitmq.x of --rabbitmq"
}

# Prints the version of the node that was started here, if there is one.
version_of_node() {
    local version
    [[ -e $servers/broker/node ]] || return 0
    version=$("$broker" ctl "$servers/broker" -q eval 'io:format("~s~n", [rabbit_misc:version()]).')
    echo " (RabbitMQ ${version%%$'\n'*})"
}

# ---- Checks --------------------------------------------------------------------------------------------------

# step NAME RERUN COMMAND...: runs COMMAND. If it fails, reports the failure and the command RERUN that
# repeats it.
step() {
    local name=$1 rerun=$2 begun=$SECONDS status=0
    shift 2
    printf '\n==> %s\n' "$name" >&2
    "$@" || status=$?
    results+=("$(printf '%-12s %5d s' "$name" $((SECONDS - begun)))")
    [[ $status -eq 0 ]] && return
    results[-1]+="  FAILED"
    summary
    say "\"$name\" failed with $status; alone: $rerun"
    exit "$status"
}

# quoted WORD...: prints the words as a user would type them.
quoted() {
    local words
    printf -v words ' %q' "$@"
    echo "${words:1}"
}

# run_again ARG...: prints the call of this script as a user would type it.
run_again() { quoted tests/run.sh ${rabbitmq:+--rabbitmq "$rabbitmq"} "$@"; }

# check NAME COMMAND...: runs a step that needs only its command.
check() { step "$1" "$(quoted "${@:2}")" "${@:2}"; }

# tested NAME COMMAND...: runs a step that needs the servers.
tested() { step "$1" "$(run_again --servers-only -- "${@:2}")" "${@:2}"; }

summary() {
    printf '\n' >&2
    printf '%s\n' "${results[@]}" >&2
}

# Checks each command's result itself, like start_servers.
check_scripts() {
    local scripts script
    mapfile -d '' scripts < <(find .ci/run . \( -name .git -o -name target -o -name .cache -o -name node_modules \) -prune \
        -o -type f \( -name '*.sh' -o -path .ci/run \) -print0)
    for script in "${scripts[@]}"; do bash -n "$script" || return; done
    shellcheck "${scripts[@]}"
}

check_everything() {
    check formatting cargo fmt --all --check
    step scripts "shellcheck \$(git ls-files '*.sh' .ci/run)" check_scripts
    check dependencies cargo deny --locked check licenses bans sources
    check clippy cargo clippy --workspace --all-targets --locked -- -D warnings
    check build cargo build --workspace --all-targets --locked
    check documents tests/docs.sh
    step servers "$(run_again --servers-only -- true)" start_servers
    # Failures are printed once, at the end, without backtraces: in CI, this may be all that is kept.
    tested tests env RUST_BACKTRACE=0 cargo nextest run --workspace --locked --status-level slow --failure-output final
    tested doc-tests cargo test --doc --workspace --locked
    check docs env RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --workspace --locked
}

# The build comes first, because the end-to-end tests run the built program, which a selection of tests may
# not build. It builds all targets, because others would be built with different features of the dependencies,
# and those twice.
check_selection() {
    check build cargo build --workspace --all-targets --locked
    step servers "$(run_again --servers-only -- true)" start_servers
    tested tests cargo nextest run --workspace --locked "$@"
}

main() {
    cd "$repository"
    if [[ ${1:-} == --help || ${1:-} == -h ]]; then
        sed -n '2,19s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit
    fi
    if [[ ${1:-} == --rabbitmq ]]; then
        [[ $# -ge 2 ]] || die "usage: tests/run.sh --rabbitmq MAJOR ..."
        rabbitmq=$2
        shift 2
    fi
    if [[ ${1:-} == --servers-only ]]; then
        [[ ${2:-} == -- && $# -ge 3 ]] || die "usage: tests/run.sh --servers-only -- COMMAND..."
    fi
    trap stop_servers EXIT
    # Runs two tests that load the machine, and one that waits, even on two cores: see .config/nextest.toml.
    export NEXTEST_TEST_THREADS=${NEXTEST_TEST_THREADS:-$(($(nproc) < 3 ? 3 : $(nproc)))}
    [[ -z $rabbitmq ]] || need_rabbitmq
    need_rust
    need_strace
    need_openssl
    need_pgbouncer
    need_python
    need_node
    need_php
    need_go
    need_promtool
    if [[ ${1:-} == --servers-only ]]; then
        start_servers
        "${@:3}"
        return
    fi
    if [[ $# -gt 0 ]]; then
        check_selection "$@"
    else
        need_shellcheck
        need_deny
        need_documents
        check_everything
    fi
    summary
}

main "$@"
