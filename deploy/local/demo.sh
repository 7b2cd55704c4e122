#!/usr/bin/env bash
# The main job on this machine: a real RabbitMQ, SQLite, `magnetite up` and four receivers.
#
#   demo.sh           plays the scenes below, checks them, and goes on until Ctrl-C
#   demo.sh --once    the same, and ends: 0 if everything was as it has to be, 1 if not
#
# Scenes: a healthy endpoint gets eight events; one that fails three times gets its event at +1, +3 and +7 s; one answers 410
# and is disabled; one has a receiver with a wrong secret, which refuses every request.
#
# Needs Debian with Rust. The broker is found or installed by broker.sh, which says what it does; everything else lives in a
# temporary directory that is deleted at the end.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd -- "$here/../.." && pwd)
readonly here repository
readonly binary=$repository/target/debug/magnetite
readonly organization=org_demo
# Scenes end within 7 s; the rest is room for a slow machine.
readonly SCENES_SECONDS_MAX=40

dir=
pids=()
failures=0

say() { printf 'demo: %s\n' "$*"; }

die() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

cleanup() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    [[ -n $dir ]] || return 0
    "$here/broker.sh" remove "$dir/broker" >&2 || true
    rm -rf -- "$dir"
}

now_ms() { date +%s%3N; }

# until_true SECONDS WHAT COMMAND...: polls COMMAND.
until_true() {
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < until)) || return 1
        [[ -z ${worker:-} ]] || kill -0 "$worker" 2>/dev/null || die "magnetite up ended: $(tail -n 5 "$dir/up.log")"
        read -rt 0.1 <> <(:) || true
    done
    : "$what"
}

free_port() { "$here/free-ports.sh" 1; }

# field NAME LINE: a text or number of a flat JSON line.
field() {
    local pattern="\"$1\":(\"([^\"]*)\"|[^,}]*)"
    [[ $2 =~ $pattern ]] || return 0
    printf '%s' "${BASH_REMATCH[2]:-${BASH_REMATCH[1]}}"
}

# ---- Setting up ----------------------------------------------------------------------------------------------

build() {
    command -v cargo >/dev/null || die "there is no cargo: install Rust, see https://rustup.rs"
    say "building magnetite (some minutes the first time)"
    cargo build --quiet --locked --manifest-path "$repository/Cargo.toml" --package magnetite-cli
}

configure() {
    MAGNETITE_BROKER__URL=$("$here/broker.sh" find "$dir/broker")
    export MAGNETITE_BROKER__URL
    # A name of its own, should the broker be shared.
    export MAGNETITE_BROKER__PREFIX=magnetite-demo-$$
    export MAGNETITE_DATABASE__URL=sqlite://$dir/magnetite.db
    # The receivers are on this machine; without this a loopback address is refused.
    export MAGNETITE_EGRESS__ALLOW=127.0.0.0/8
    export MAGNETITE_HEALTH__LISTEN=127.0.0.1:0
    export MAGNETITE_API__LISTEN=127.0.0.1:0
    say "broker ${MAGNETITE_BROKER__URL##*@}, database $dir/magnetite.db"
}

start_worker() {
    cd "$dir"
    "$binary" up 2>"$dir/up.log" &
    worker=$!
    pids+=("$worker")
    until_true 30 "consuming" consuming || die "magnetite up does not consume: $(tail -n 5 "$dir/up.log")"
    say "magnetite up consumes"
}

# Three queues of the worker, three of the recorder.
consuming() { [[ $(grep -c ' consuming' "$dir/up.log") -ge 6 ]]; }

# endpoint NAME EVENTS FAIL [SECRET]: registers an endpoint and starts its receiver.
endpoint() {
    local name=$1 events=$2 fail=$3 secret=${4:-} port created
    port=$(free_port)
    created=$("$binary" endpoint create --org "$organization" --url "http://127.0.0.1:$port/$name" --events "$events" --json)
    field id "$created" >"$dir/$name.id"
    "$binary" listen --secret "${secret:-$(field secret "$created")}" --addr "127.0.0.1:$port" --json ${fail:+--fail "$fail"} \
        >"$dir/$name.requests" 2>"$dir/$name.log" &
    pids+=($!)
    until_true 10 "$name listens" listening "$port" || die "the receiver $name does not listen: $(cat "$dir/$name.log")"
    say "endpoint $name ($(cat "$dir/$name.id")): $events${fail:+, answers $fail at first}${secret:+, its receiver has a wrong secret}"
}

listening() { (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# ---- Playing -------------------------------------------------------------------------------------------------

publish() {
    local event_type timestamp
    timestamp=$(now_ms)
    for event_type in lead.created research.started research.completed research.failed magnet.generated lead.completed \
        lead.failed magnet.viewed; do
        timestamp=$((timestamp + 1))
        printf '{"event":"%s","timestamp":%s,"organization_id":"%s","project_id":"proj_demo","lead_id":"lead_1","data":{"lead_id":"lead_1"}}\n' \
            "$event_type" "$timestamp" "$organization"
    done >"$dir/events.jsonl"
    begun=$(now_ms)
    "$binary" publish "$dir/events.jsonl" >"$dir/published"
    say "published $(wc -l <"$dir/published") events, each confirmed by the broker"
}

# Prints the requests that arrived since the last call.
declare -A shown=()
show() {
    local name line at
    for name in healthy failing gone wrong; do
        while IFS= read -r line; do
            shown[$name]=$((${shown[$name]:-0} + 1))
            at=$(($(field received_ms "$line") - begun))
            printf '  +%2d.%03d s  %-8s %-19s attempt %s  answered %s  signature %s\n' $((at / 1000)) $((at % 1000)) "$name" \
                "$(field event "$line")" "$(field attempt "$line")" "$(field status "$line")" \
                "$([[ $(field verified "$line") == true ]] && echo good || echo BAD)"
        done < <(tail -n "+$((${shown[$name]:-0} + 1))" "$dir/$name.requests")
    done
}

count() { wc -l <"$dir/$1.requests"; }

played() {
    show
    (($(count healthy) >= 8 && $(count failing) >= 4 && $(count gone) >= 1 && $(count wrong) >= 3)) && gone_is_disabled
}

gone_is_disabled() { [[ $("$binary" endpoint show "$(cat "$dir/gone.id")" --json) == *'"gone"'* ]]; }

# ---- Checking ------------------------------------------------------------------------------------------------

# expect WHAT COMMAND...
expect() {
    if "${@:2}"; then
        printf '  ok      %s\n' "$1"
    else
        printf '  FAILED  %s\n' "$1"
        failures=$((failures + 1))
    fi
}

# distinct NAME FIELD: how many different values a receiver's requests have.
distinct() {
    local line
    while IFS= read -r line; do
        field "$2" "$line"
        echo
    done <"$dir/$1.requests" | sort -u | wc -l
}

# How many different bodies: the field holds quotes, and is compared with all that follows it but the times.
bodies() { sed 's/.*"body"://' "$dir/$1.requests" | sort -u | wc -l; }

all_verified() { ! grep -q '"verified":false' "$dir/$1.requests"; }
none_verified() { ! grep -q '"verified":true' "$dir/$1.requests"; }
# How many attempts the journal has of an endpoint's delivery.
recorded() { field attempt_count "$("$binary" delivery list --endpoint "$(cat "$dir/$1.id")" --json)"; }
balances() { "$binary" audit >/dev/null; }
none_accepted() { ! grep -q '"status":200' "$dir/$1.requests"; }
is() { [[ $1 -eq $2 ]]; }

# The gaps between the attempts at the failing endpoint: never shorter than 1, 2, 4 s, and hardly longer.
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
    done <"$dir/failing.requests"
    [[ ${#delays[@]} -eq 0 ]]
}

check() {
    say "what had to be:"
    expect "the healthy endpoint got 8 different events, once each" is "$(count healthy)$(distinct healthy event_id)" 88
    expect "the failing endpoint got its event at +1, +3 and +7 s" on_schedule
    expect "  with the same body each time" is "$(bodies failing)" 1
    expect "  with the same id each time" is "$(distinct failing event_id)" 1
    expect "  with the same timestamp each time" is "$(distinct failing timestamp)" 1
    expect "the endpoint that answered 410 was asked once" is "$(count gone)" 1
    expect "  and is disabled" gone_is_disabled
    expect "the receiver with the wrong secret refused every request" none_verified wrong
    expect "  and none of them counts as delivered" none_accepted wrong
    expect "the journal knows of the failing endpoint's four attempts" is "$(recorded failing)" 4
    expect "the books balance: what matched was delivered, is dead or stands in a queue" balances
    for name in healthy failing gone; do expect "every signature at $name is good" all_verified "$name"; done
}

main() {
    case ${1:-} in '' | --once) ;; *) die "usage: $0 [--once]" ;; esac
    trap cleanup EXIT
    trap 'exit 130' INT TERM
    dir=$(mktemp -d "${TMPDIR:-/tmp}/magnetite-demo.XXXXXX")
    build
    configure
    start_worker
    endpoint healthy '*' ''
    endpoint failing lead.completed 500,500,500
    endpoint gone magnet.viewed 410
    endpoint wrong lead.created '' "whsec_$(head -c 32 /dev/zero | base64)"
    # The worker looks for new endpoints every 250 ms.
    until_true 5 "the worker knows the endpoints" known || true
    publish
    until_true "$SCENES_SECONDS_MAX" "the scenes" played || say "not everything came within $SCENES_SECONDS_MAX s"
    check
    if [[ ${1:-} != --once ]]; then
        say "running until Ctrl-C; publish more with the same environment:"
        env | grep '^MAGNETITE_' | sed 's/^/  export /'
        say "  $binary publish --event lead.completed --org $organization --project proj_demo --lead lead_2"
        while kill -0 "$worker" 2>/dev/null; do
            show
            read -rt 0.5 <> <(:) || true
        done
    fi
    [[ $failures -eq 0 ]] || die "$failures expectations failed"
    say "all as it has to be"
}

# Half a second after the last endpoint was registered.
known() {
    known_at=${known_at:-$(($(now_ms) + 500))}
    (($(now_ms) >= known_at))
}

main "$@"
