#!/usr/bin/env bash
# Installs the Debian package in a container whose first process is systemd, and does what docs/operations.md ("The Debian package")
# describes: sets it up, delivers, upgrades, rolls back, runs roles as separate processes, removes, purges and reinstalls it.
#
#   tests/package.sh                builds the package first, which compiles for some minutes
#   PROFILE=dev tests/package.sh    packages the development build
#
# Needs Docker and the requirements of deploy/debian/build.sh, on Debian 12 on amd64, because the package is built here. Not part of tests/run.sh.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly repository
readonly image=magnetite-package-test
readonly container=magnetite-package-test
readonly WAIT_S=60
readonly FIRST=0.1.0-1 SECOND=0.1.0-2
context=
sent=0

say() { printf 'package.sh: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

clean() {
    local status=$?
    if ((status != 0)); then inside journalctl --no-pager --lines 30 --unit 'magnetite*' >&2 || true; fi
    docker rm --force "$container" >/dev/null 2>&1 || true
    [[ -z $context ]] || rm -rf -- "$context"
}

# Runs in a directory that the package's user may not read.
inside() { docker exec --interactive --workdir /root "$container" "$@" </dev/null; }

# cli ARG...: runs `magnetite` as the package's user.
cli() { inside runuser -u magnetite -- magnetite "$@"; }

# within WHAT COMMAND...: polls COMMAND until it succeeds; exits if it does not in time.
within() {
    local what=$1 deadline=$((SECONDS + WAIT_S))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || die "not within $WAIT_S s: $what"
        sleep 1
    done
}

expect() {
    local what=$1
    shift
    "$@" >/dev/null || die "not so: $what"
    say "$what"
}

expect_not() {
    local what=$1
    shift
    if "$@" >/dev/null 2>&1; then die "not so: $what"; fi
    say "$what"
}

build() {
    local version
    for version in "$FIRST" "$SECOND"; do
        cp -- "$("$repository/deploy/debian/build.sh" --deb-version "$version" | tail -n 1)" "$context"
    done
    cat >"$context/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm-slim
# As on a host, manual pages are unpacked and services may be started. Services that would affect the host are
# masked.
RUN rm -f /etc/dpkg/dpkg.cfg.d/docker* \
 && apt-get update \
 && apt-get install --yes --no-install-recommends systemd systemd-sysv dbus jq lintian procps rabbitmq-server \
 && systemctl enable rabbitmq-server \
 && systemctl mask systemd-sysctl.service systemd-modules-load.service getty.target console-getty.service systemd-logind.service \
 && rm -f /usr/sbin/policy-rc.d
COPY *.deb /packages/
CMD ["/sbin/init"]
DOCKERFILE
    docker build --quiet --tag "$image" "$context" >/dev/null
}

install() { inside env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --allow-downgrades "/packages/magnetite_$1_amd64.deb" >/dev/null; }

# set_up: allows receivers on this host, in the package's configuration file.
set_up() { inside sh -c 'printf "\n[egress]\nallow = [\"127.0.0.0/8\"]\n" >>/etc/magnetite/magnetite.toml'; }

receive() {
    local secret created
    created=$(cli endpoint create --org org_1 --url http://127.0.0.1:9000/hook --json)
    secret=${created#*\"secret\":\"}
    secret=${secret%%\"*}
    docker exec --detach "$container" sh -c "magnetite listen --secret '$secret' --json >/tmp/received"
    within "a receiver listens" inside bash -c ': </dev/tcp/127.0.0.1/9000'
}

# deliver WHEN: checks that an event is delivered and verified.
deliver() {
    sent=$((sent + 1))
    cli publish --event lead.completed --org org_1 --project proj_1 --lead "lead_$sent" --data "{\"lead_id\":\"lead_$sent\"}" --wait=30s >/dev/null ||
        die "$1: the event was not delivered"
    [[ $(inside jq --slurp '[.[] | select(.verified) | .event_id] | unique | length' /tmp/received) -eq $sent ]] ||
        die "$1: the receiver did not verify $sent events"
    say "delivered $1"
}

pid() { inside systemctl show --property MainPID --value "$1"; }

restarted() { [[ $(pid "$1") != 0 && $(pid "$1") != "$2" ]]; }

ready() { cli health; }

roles() {
    inside runuser -u magnetite -- magnetite health 127.0.0.1:{8086,8087,8091,8092}
}

one_process() {
    local before
    expect "the package is not started by its installation" inside sh -c '! systemctl --quiet is-active magnetite'
    set_up
    inside systemctl enable --quiet --now magnetite
    within "magnetite is ready" ready
    receive
    deliver "after the installation"
    before=$(pid magnetite)
    inside kill -KILL "$before"
    within "systemd starts it again" restarted magnetite "$before"
    within "magnetite is ready again" ready
    deliver "after SIGKILL"

    before=$(pid magnetite)
    install "$SECOND"
    expect "an upgrade restarts it" restarted magnetite "$before"
    expect "and leaves the configuration alone" inside grep --quiet '^allow' /etc/magnetite/magnetite.toml
    within "magnetite is ready after the upgrade" ready
    deliver "after an upgrade"
    install "$FIRST"
    within "magnetite is ready after the way back" ready
    deliver "after the way back"

    inside sh -c 'echo "nonsense = 1" >>/etc/magnetite/magnetite.toml && systemctl restart magnetite' || true
    within "a configuration that is not valid ends it" inside systemctl --quiet is-failed magnetite
    expect "one that is not valid ends it with exit code 64" [ "$(inside systemctl show --property ExecMainStatus --value magnetite)" -eq 64 ]
    inside sh -c "sed --in-place '/nonsense/d' /etc/magnetite/magnetite.toml && systemctl start magnetite"
    within "magnetite is ready after the correction" ready
}

several_processes() {
    local before
    inside systemctl disable --quiet --now magnetite
    cli migrate
    inside systemctl enable --quiet --now magnetite-recorder magnetite-api magnetite-worker@8091 magnetite-worker@8092
    within "recorder, API and two workers are ready" roles
    deliver "by processes of their own"
    before=$(pid magnetite-worker@8091)
    install "$SECOND"
    expect "an upgrade leaves them running" [ "$(pid magnetite-worker@8091)" = "$before" ]
    inside systemctl restart magnetite-recorder magnetite-api 'magnetite-worker@*'
    within "they are ready after a restart" roles
    deliver "after their upgrade"
    within "the books balance" cli audit
}

helpers() {
    expect "a manual page is installed" inside test -s /usr/share/man/man1/magnetite-endpoint-create.1.gz
    # shellcheck disable=SC2016 # for the inner shell
    expect "bash completes a command" inside bash -c '. /usr/share/bash-completion/completions/magnetite; COMP_WORDS=(magnetite endp); COMP_CWORD=1; _magnetite magnetite endp magnetite; [[ ${COMPREPLY[*]} == endpoint ]]'
    inside systemd-analyze security --no-pager magnetite.service | tail -n 1 >&2
}

goes() {
    inside apt-get remove --quiet --yes magnetite >/dev/null
    expect "removed, nothing of it runs" inside sh -c '! pgrep --exact magnetite --uid magnetite'
    expect "and the configuration is there" inside test -e /etc/magnetite/magnetite.toml
    inside apt-get purge --quiet --yes magnetite >/dev/null
    expect_not "purged, the configuration is gone" inside test -e /etc/magnetite/magnetite.toml
    expect "and the database is there" inside test -s /var/lib/magnetite/magnetite.db
    install "$SECOND"
    set_up
    inside systemctl enable --quiet --now magnetite
    within "magnetite is ready when it is installed again" ready
    deliver "when it is installed again"
}

main() {
    if [[ ${1:-} == --help || ${1:-} == -h ]]; then
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit
    fi
    docker info >/dev/null || die "there is no Docker, or its engine does not run"
    trap clean EXIT
    context=$(mktemp -d)
    build
    docker run --detach --name "$container" --privileged --env container=docker --tmpfs /run --tmpfs /tmp:exec "$image" >/dev/null
    within "systemd has started" inside systemctl list-units
    inside lintian --fail-on error,warning "/packages/magnetite_${FIRST}_amd64.deb" >&2 || die "lintian objects"
    within "RabbitMQ answers" inside rabbitmqctl await_startup
    install "$FIRST"
    helpers
    one_process
    several_processes
    goes
    say "passed"
}

main "$@"
