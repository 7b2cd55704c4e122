#!/usr/bin/env bash
# Shows in half a minute on this machine what Magnetite webhooks does, with a real RabbitMQ, SQLite, `magnetite up` and
# four receivers.
#
#   demo.sh           plays six scenes, checks the results, and runs until Ctrl-C
#   demo.sh --once    the same, and then exits: 0 if all checks passed, 1 otherwise
#
# Scenes: delivery; retries; a dead letter, and what `event show` reports about it; `recover`; a new secret; `audit`.
#
# Needs Debian with Rust. Uses the release build if there is one. broker.sh finds or installs the broker and says what it does. Everything else is in a
# temporary directory that is deleted at the end.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd -- "$here/../.." && pwd)
readonly here repository
readonly organization=org_demo
readonly endpoints=(healthy flaky down gone)
# A scene takes at most 8 s; the rest is a margin for a slow machine.
readonly SCENE_SECONDS_MAX=40

binary=$repository/target/debug/magnetite
dir=
pids=()
failures=()
checks=0
declare -A id=() shown=()

bold='' green='' red='' dim='' plain='' color=never
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' dim=$'\e[2m' plain=$'\e[0m' color=always
fi

say() { printf 'demo: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

cleanup() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    [[ -n $dir ]] || return 0
    "$here/broker.sh" remove "$dir/broker" >/dev/null 2>&1 || true
    rm -rf -- "$dir"
}

now_ms() { date +%s%3N; }

# until_true SECONDS COMMAND...: polls COMMAND until it succeeds; fails if it does not in time.
until_true() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < until)) || return 1
        [[ -z ${roles:-} ]] || kill -0 "$roles" 2>/dev/null || die "magnetite up ended: $(tail -n 5 "$dir/up.log")"
        read -rt 0.1 <> <(:) || true
    done
}

# field NAME LINE: prints a text or a number from a flat JSON line.
field() {
    local pattern="\"$1\":(\"([^\"]*)\"|[^,}]*)"
    [[ $2 =~ $pattern ]] || return 0
    printf '%s' "${BASH_REMATCH[2]:-${BASH_REMATCH[1]}}"
}

# ---- Setting up ----------------------------------------------------------------------------------------------

build() {
    local cargo
    command -v cargo >/dev/null || die "there is no cargo: install Rust, see https://rustup.rs"
    cargo=(cargo build --locked --manifest-path "$repository/Cargo.toml" --package magnetite-cli)
    # A second build, for debugging, would take as long as the first.
    if [[ -x $repository/target/release/magnetite ]]; then
        cargo+=(--release)
        binary=$repository/target/release/magnetite
    fi
    say "building the program: some minutes the first time"
    if [[ -t 2 ]]; then
        "${cargo[@]}" || die "the program cannot be built"
    else
        "${cargo[@]}" >"$dir/build.log" 2>&1 || die "the program cannot be built: $(tail -n 20 "$dir/build.log")"
    fi
}

start() {
    MAGNETITE_BROKER__URL=$("$here/broker.sh" find "$dir/broker")
    export MAGNETITE_BROKER__URL
    # A separate prefix, because the broker may be shared.
    export MAGNETITE_BROKER__PREFIX=magnetite-demo-$$
    export MAGNETITE_DATABASE__URL=sqlite://$dir/magnetite.db
    # The receivers run on this machine. Without this setting, loopback addresses are refused.
    export MAGNETITE_EGRESS__ALLOW=127.0.0.0/8
    export MAGNETITE_HEALTH__LISTEN=127.0.0.1:0 MAGNETITE_API__LISTEN=127.0.0.1:0
    # Four attempts, so that you see the last one fail.
    export MAGNETITE_RETRY__DELAYS=1s,2s,4s
    cd "$dir"
    # Used instead of a configuration file that this host may have.
    : >magnetite.toml
    "$binary" up 2>"$dir/up.log" &
    roles=$!
    pids+=("$roles")
    until_true 30 consuming || die "magnetite up does not consume: $(tail -n 5 "$dir/up.log")"
    say "broker ${MAGNETITE_BROKER__URL##*@}, database $dir/magnetite.db, magnetite up runs"
}

# Three queues of the worker, and three of the recorder.
consuming() { [[ $(grep -c ' consuming' "$dir/up.log") -ge 6 ]]; }

# endpoint NAME EVENTS FAIL: registers an endpoint, and starts its receiver.
endpoint() {
    local name=$1 events=$2 fail=$3 port created
    port=$("$here/free-ports.sh" 1)
    created=$("$binary" endpoint create --org "$organization" --url "http://127.0.0.1:$port/$name" --events "$events" --json \
        2>"$dir/created.log") || die "the endpoint $name cannot be created: $(cat "$dir/created.log")"
    id[$name]=$(field id "$created")
    "$binary" listen --secret "$(field secret "$created")" --addr "127.0.0.1:$port" --json ${fail:+--fail "$fail"} \
        >"$dir/$name.requests" 2>"$dir/$name.log" &
    pids+=($!)
    until_true 10 listening "$port" || die "the receiver $name does not listen: $(cat "$dir/$name.log")"
}

listening() { (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# ---- Playing -------------------------------------------------------------------------------------------------

scene() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# run ARG...: runs `magnetite`, and shows the command as a user would type it, with its output.
run() {
    printf '  %s$ magnetite %s%s\n' "$dim" "$*" "$plain"
    # `check` finds out whether the result is right.
    "$binary" --color "$color" "$@" 2>&1 | sed 's/^/  /' || true
}

# publish TYPE...: publishes one event of each type. The broker confirms each.
publish() {
    local event_type timestamp
    timestamp=$(now_ms)
    for event_type; do
        timestamp=$((timestamp + 1))
        printf '{"event":"%s","timestamp":%s,"organization_id":"%s","project_id":"proj_demo","lead_id":"lead_1","data":{"lead_id":"lead_1"}}\n' \
            "$event_type" "$timestamp" "$organization"
    done >"$dir/events.jsonl"
    begun=${begun:-$(now_ms)}
    # Standard error would show a progress bar.
    "$binary" publish "$dir/events.jsonl" >"$dir/published" 2>"$dir/publish.log" ||
        die "the events cannot be published: $(cat "$dir/publish.log")"
}

# Prints the requests that have arrived since the last call.
show() {
    local name line at status
    for name in "${endpoints[@]}"; do
        while IFS= read -r line; do
            shown[$name]=$((${shown[$name]:-0} + 1))
            at=$(($(field received_ms "$line") - begun))
            status=$(field status "$line")
            printf '  +%2d.%03d s  %-8s %-19s attempt %s  answered %s%s%s  signature %s\n' $((at / 1000)) $((at % 1000)) "$name" \
                "$(field event "$line")" "$(field attempt "$line")" "$([[ $status == 2* ]] && echo "$green" || echo "$red")" "$status" "$plain" \
                "$([[ $(field verified "$line") == true ]] && echo "${green}valid$plain" || echo "${red}NOT VALID$plain")"
        done < <(tail -n "+$((${shown[$name]:-0} + 1))" "$dir/$name.requests")
    done
}

count() { wc -l <"$dir/$1.requests"; }

# came NAME COUNT [NAME COUNT]...: succeeds if this many requests have arrived; prints the new ones.
came() {
    show
    while (($# > 0)); do
        (($(count "$1") >= $2)) || return
        shift 2
    done
}

# await NAME COUNT [NAME COUNT]...
await() { until_true "$SCENE_SECONDS_MAX" came "$@" || say "not everything came within $SCENE_SECONDS_MAX s"; }

is_disabled() { [[ $("$binary" endpoint show "${id[$1]}" --json) == *'"gone"'* ]]; }

# in_state NAME STATE: succeeds if the endpoint's only delivery is recorded in this state.
in_state() { [[ $("$binary" delivery list --endpoint "${id[$1]}" --json) == *"\"state\":\"$2\""* ]]; }

recorded_as() { until_true "$SCENE_SECONDS_MAX" in_state "$@" || say "the delivery to $1 was not recorded as $2 within $SCENE_SECONDS_MAX s"; }

play() {
    local dead
    scene '1. Three events are published. Each endpoint gets those that it subscribed to, signed.'
    publish lead.created research.completed magnet.generated
    await healthy 3
    scene '2. "flaky" fails three times, "down" every time, and "gone" answers 410, which disables it.'
    publish lead.completed lead.failed magnet.viewed
    await healthy 6 flaky 4 down 4 gone 1
    scene '3. "down" had four attempts: a dead letter. What happened to the event?'
    recorded_as down dead
    dead=$(sed -n 2p "$dir/published")
    run event show "$dead"
    scene '4. "down" works again, and gets what it missed.'
    run endpoint recover "${id[down]}" --since 1h
    await down 5
    scene '5. "healthy" gets a new secret; for a day requests have the signatures of both.'
    run endpoint rotate-secret "${id[healthy]}" | sed 's/whsec_[^ ]*/whsec_…/'
    publish lead.created
    await healthy 7
    scene '6. Is every delivery accounted for?'
    recorded_as down delivered
    until_true "$SCENE_SECONDS_MAX" balances || true
    run audit
}

balances() { "$binary" audit >/dev/null 2>&1; }

# ---- Checking ------------------------------------------------------------------------------------------------

# expect WHAT COMMAND...
expect() {
    checks=$((checks + 1))
    "${@:2}" || failures+=("$1")
}

# distinct NAME FIELD: prints how many different values a field has in a receiver's requests.
distinct() {
    local line
    while IFS= read -r line; do
        field "$2" "$line"
        echo
    done <"$dir/$1.requests" | sort -u | wc -l
}

# Prints how many different bodies a receiver got. The body is the last field of a request.
bodies() { sed 's/.*"body"://' "$dir/$1.requests" | sort -u | wc -l; }

all_verified() { ! grep -q '"verified":false' "$dir/$1.requests"; }
# Prints how many attempts of an endpoint's delivery the journal has.
recorded() { field attempt_count "$("$binary" delivery list --endpoint "${id[$1]}" --json)"; }
is() { [[ $1 -eq $2 ]]; }

# Checks the gaps between the attempts at the flaky endpoint: at least 1, 2 and 4 s, and hardly longer.
on_schedule() {
    local line at last='' gap delay delays=(1000 2000 4000)
    while IFS= read -r line; do
        at=$(field received_ms "$line")
        if [[ -n $last ]]; then
            gap=$((at - last)) delay=${delays[0]}
            delays=("${delays[@]:1}")
            ((gap >= delay && gap <= delay + 500)) || return 1
        fi
        last=$at
    done <"$dir/flaky.requests"
    [[ ${#delays[@]} -eq 0 ]]
}

check() {
    local name
    expect "the healthy endpoint got 7 different events, once each" is "$(count healthy)$(distinct healthy event_id)" 77
    expect "the flaky endpoint got its event at +1, +3 and +7 s" on_schedule
    expect "with the same body each time" is "$(bodies flaky)" 1
    expect "with the same id each time" is "$(distinct flaky event_id)" 1
    expect "with the same timestamp each time" is "$(distinct flaky timestamp)" 1
    expect "the journal knows of its four attempts" is "$(recorded flaky)" 4
    expect "the endpoint that answered 410 was asked once" is "$(count gone)" 1
    expect "and is disabled" is_disabled gone
    expect "the endpoint that was down was asked five times about one event" is "$(count down)$(distinct down event_id)" 51
    expect "the books balance" balances
    for name in "${endpoints[@]}"; do expect "every signature at $name is valid" all_verified "$name"; done
    if ((${#failures[@]} == 0)); then
        printf '\n%sAll of %s checks passed.%s\n' "$green" "$checks" "$plain"
    else
        printf '\n%sOf %s checks %s failed:%s\n' "$red" "$checks" "${#failures[@]}" "$plain"
        printf '  %s\n' "${failures[@]}"
    fi
}

# Shows requests until Ctrl-C.
go_on() {
    printf '\nIt runs until Ctrl-C. In another terminal:\n\n'
    local name
    printf '  cd %s\n' "$dir"
    for name in BROKER__URL BROKER__PREFIX DATABASE__URL EGRESS__ALLOW RETRY__DELAYS; do
        name=MAGNETITE_$name
        printf "  export %s='%s'\n" "$name" "${!name}"
    done
    printf '  %s publish --event lead.completed --org %s --project proj_demo --lead lead_2 --wait\n\n' "$binary" "$organization"
    while kill -0 "$roles" 2>/dev/null; do
        show
        read -rt 0.5 <> <(:) || true
    done
}

main() {
    case ${1:-} in '' | --once) ;; *) die "usage: $0 [--once]" ;; esac
    trap cleanup EXIT
    trap 'exit 130' INT TERM
    dir=$(mktemp -d "${TMPDIR:-/tmp}/magnetite-demo.XXXXXX")
    build
    start
    endpoint healthy '*' ''
    endpoint flaky lead.completed 500,500,500
    endpoint down lead.failed 500,500,500,500
    endpoint gone magnet.viewed 410
    play
    check
    [[ ${1:-} == --once ]] || go_on
    ((${#failures[@]} == 0))
}

main "$@"
