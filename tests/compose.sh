#!/usr/bin/env bash
# Runs docker-compose.yml on a Docker engine: builds the image, starts everything with no variable set, delivers events to a receiver,
# scales to four workers, restarts the broker, upgrades from the previous image, checks that the books balance, and removes everything.
#
#   tests/compose.sh                the previous image is the same build under another name
#   tests/compose.sh --from IMAGE   the previous image is this one, of an earlier version that has the command `magnetite health`
#
# Needs Docker with Compose 2.24 or later, jq, about 10 GB below /var/lib/docker, and the ports 5672 and 8420 of 127.0.0.1. Not part of tests/run.sh.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly repository
readonly project=magnetite-compose-test
readonly events=100
# Does not include a build from scratch.
readonly WAIT_S=180
previous=

say() { printf 'compose.sh: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

compose() {
    docker compose --project-name "$project" --project-directory "$repository" --file "$repository/docker-compose.yml" \
        --file "$repository/deploy/compose/host-receivers.yml" "$@"
}

# cli ARG...: runs `magnetite` in a separate container.
cli() { compose run --rm --no-TTY --no-deps --quiet-pull magnetite "$@"; }

clean() {
    local status=$?
    if ((status != 0)); then compose logs --no-color --tail 20 >&2 || true; fi
    docker rm --force "$project-receiver" >/dev/null 2>&1 || true
    compose --profile tools down --volumes --remove-orphans >/dev/null 2>&1 || say "something of the project $project is left: docker compose ls"
}

# within WHAT COMMAND...: polls COMMAND until it succeeds; exits if it does not in time.
within() {
    local what=$1 deadline=$((SECONDS + WAIT_S))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || die "not within $WAIT_S s: $what"
        sleep 1
    done
}

# healthy SERVICE COUNT: succeeds if exactly COUNT containers of SERVICE are healthy.
healthy() { [[ $(compose ps --format '{{.Health}}' "$1" | grep -c '^healthy$') -eq $2 ]]; }

# start WORKERS: starts everything with this many workers, and waits until all services are healthy.
start() {
    compose up --detach --scale "worker=$1"
    within "$1 workers, a recorder, the API and the broker are healthy" all_healthy "$1"
}

all_healthy() { healthy worker "$1" && healthy recorder 1 && healthy api 1 && healthy rabbitmq 1 && healthy postgres 1; }

# receive SECRET: starts a receiver, and discards what the previous one has received.
receive() {
    docker rm --force "$project-receiver" >/dev/null 2>&1 || true
    compose run --detach --no-deps --name "$project-receiver" magnetite listen --addr 0.0.0.0:9000 --secret "$1" --json >/dev/null
}

# received: prints how many events were verified; an event that arrived twice counts once.
received() { docker logs "$project-receiver" 2>/dev/null | jq --raw-output 'select(.verified) | .event_id' | sort --unique | wc -l; }

all_received() { [[ $(received) -eq $events ]]; }

# deliver NAME SECRET: publishes events, and waits until a receiver has verified each of them.
deliver() {
    local number
    receive "$2"
    for ((number = 1; number <= events; number++)); do
        printf '{"event":"lead.created","timestamp":%s,"organization_id":"org_1","project_id":"proj_1","lead_id":"%s-%s","data":{"lead_id":"%s"}}\n' \
            "$(date +%s%3N)" "${1// /-}" "$number" "$number"
    done | cli publish >/dev/null
    within "$1: all of $events events are delivered" all_received
    say "$1: $events events delivered"
}

balanced() { cli audit; }

# As docs/operations.md describes.
change_passwords() {
    local name
    compose exec --no-TTY postgres psql --quiet --username magnetite --command "ALTER ROLE magnetite PASSWORD 'changed'"
    for name in postgres rabbitmq publisher; do
        compose run --rm --no-TTY --entrypoint sh secrets -c "printf %s changed >/etc/magnetite/$name-password"
    done
    compose up --detach --force-recreate
}

main() {
    local endpoint secret
    if [[ ${1:-} == --help || ${1:-} == -h ]]; then
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit
    fi
    if [[ ${1:-} == --from ]]; then previous=${2:?name an image}; fi
    docker compose version >/dev/null || die "there is no Docker Compose, or its engine does not run"
    unset RABBITMQ_PASSWORD PUBLISHER_PASSWORD POSTGRES_PASSWORD SECRETS_KEYS
    trap clean EXIT

    compose build
    docker tag "${previous:-magnetite:local}" magnetite:before
    say "image: $(docker image inspect magnetite:local --format '{{.Size}}') bytes"

    export MAGNETITE_TAG=before
    start 2
    secret=whsec_$(openssl rand -base64 32)
    # The receiver has to run, because its address is looked up when the endpoint is registered.
    receive "$secret"
    endpoint=$(cli endpoint create --org org_1 --url "http://$project-receiver:9000/" --json | jq --raw-output .id)
    cli endpoint rotate-secret "$endpoint" --secret "$secret" --revoke-now
    deliver "two workers" "$secret"
    start 4
    deliver "four workers" "$secret"
    compose restart rabbitmq
    start 4
    deliver "after a restart of the broker" "$secret"
    export MAGNETITE_TAG=local
    start 2
    deliver "after an upgrade" "$secret"
    change_passwords
    start 2
    deliver "with other passwords" "$secret"

    cli doctor
    within "the books balance" balanced
    compose exec --no-TTY rabbitmq rabbitmqctl --quiet list_users --formatter json |
        jq --exit-status '.[] | select(.user == "publisher") | .tags == []' >/dev/null || die "the publishers' user is not there, or has a tag"
    compose exec --no-TTY rabbitmq rabbitmqctl --quiet list_user_permissions publisher --formatter json |
        jq --exit-status '. == [{vhost: "/", configure: "^$", write: "^magnetite\\.events$", read: "^$"}]' >/dev/null ||
        die "the publishers' user may do something else than write to magnetite.events"
    docker rm --force "$project-receiver" >/dev/null
    compose --profile tools down --volumes
    [[ -z $(docker ps --all --quiet --filter "label=com.docker.compose.project=$project") ]] || die "containers are left"
    say "all as it has to be"
}

main "$@"
