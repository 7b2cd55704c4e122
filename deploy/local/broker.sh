#!/usr/bin/env bash
# A private RabbitMQ node for one directory: for the demonstration and the tests, not for production.
#
#   broker.sh start DIR       start the node (or leave it running) and print its URL
#   broker.sh join DIR OTHER  start a new node in the cluster of OTHER's node, which must be running, and print its URL
#   broker.sh find DIR        print the URL of a broker, and start one if necessary (see below)
#   broker.sh install         install RabbitMQ if it is missing; its service stays off
#   broker.sh url DIR         print the URL of the node of DIR, running or not
#   broker.sh management DIR  print the address of its management HTTP API, where Magnetite looks for it by default:
#                             the port of the URL plus 10000
#   broker.sh log DIR         print the log of the node
#   broker.sh stop DIR        stop the node gracefully; its data stays
#   broker.sh kill DIR        kill it with SIGKILL, which has the effect of a power failure
#                             (a quorum queue declared within the last 500 ms stays unusable afterwards: RabbitMQ
#                             saves the names of its Raft members only every 500 ms)
#   broker.sh pause DIR       send SIGSTOP: its sockets stay open, but nothing answers
#   broker.sh resume DIR      send SIGCONT
#   broker.sh remove DIR      stop the node, then delete DIR
#   broker.sh ctl DIR ARG...  run rabbitmqctl against the node, for example: ctl DIR list_queues
#
# Data, log, process ids, cookie, configuration and ports of the node are files in DIR, so nodes do not conflict with
# each other or with a system service. Ports and node name are chosen once per DIR, so a later start finds the same data,
# and clients find the node. The nodes of a cluster share a cookie and an epmd. Everything listens on 127.0.0.1 only.
# Standard output contains only the URL (or what ctl prints).
#
# `find` uses the first of: MAGNETITE_BROKER__URL; an installed rabbitmq-server, started privately in DIR; a running
# Docker engine (`stop` removes its container including the data); an installation with apt-get, started as above.
# A broker given by MAGNETITE_BROKER__URL is never stopped, because DIR does not record it.
#
# MAGNETITE_RABBITMQ_ROOT=ROOT starts the RabbitMQ of another Debian with chroot (needs root), for example 4.x from
#   debootstrap --variant=minbase --include=rabbitmq-server trixie ROOT
# (tests/run.sh --rabbitmq 4 creates one itself). The node's files are then in ROOT, and DIR records where. The
# variable only matters at the first start of DIR.
set -euo pipefail

readonly START_SECONDS_MAX=60
readonly STOP_SECONDS_MAX=30
readonly DOCKER_IMAGE=rabbitmq:4
# The difference between the ports of AMQP and of the management HTTP API, as with RabbitMQ's own 5672 and
# 15672.
readonly MANAGEMENT_ABOVE=10000
# While this program exists and exits with 101, packages are installed without starting their services
# (invoke-rc.d(8)).
readonly POLICY=/usr/sbin/policy-rc.d

say() { printf 'broker: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

usage() {
    sed -n '4,19s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# ---- What is noted in DIR ------------------------------------------------------------------------------------

# Prints the absolute path of DIR. Fails if it does not exist.
absolute() { (CDPATH='' cd -- "$1" 2>/dev/null && pwd -P); }

# noted KEY [DIR]: prints one value of DIR/node.
noted() { sed -n "s/^$1=//p" "${2:-$dir}/node"; }

is_noted() { [[ -e $dir/node ]]; }

# Reads DIR/node into the variables that the other functions use.
load() {
    is_noted || die "$dir holds no broker: start one with: $0 start DIR"
    kind=$(noted kind)
    node=$(noted node)
    amqp_port=$(noted amqp_port)
    dist_port=$(noted dist_port)
    epmd_port=$(noted epmd_port)
    management_port=$((amqp_port + MANAGEMENT_ABOVE))
    root=$(noted root)
    # The same directory has two names: `files` outside the chroot, `home` as the node sees it.
    if [[ -n $root ]]; then
        home=/var/lib/private-nodes/${node%@*}
        files=$root$home
    else
        home=$dir/files
        files=$home
    fi
}

# create KIND: chooses the node name and the ports for DIR, once. KIND is `node` or `docker`.
create() {
    local ports chroot=${MAGNETITE_RABBITMQ_ROOT:-}
    [[ -z $chroot ]] || chroot=$(absolute "$chroot") || die "MAGNETITE_RABBITMQ_ROOT: no directory $MAGNETITE_RABBITMQ_ROOT"
    ports="$(free_ports 1 "$MANAGEMENT_ABOVE") $(free_ports 2)"
    # shellcheck disable=SC2086 # three words
    note "$1" "$chroot" $ports
}

# create_beside OTHER: like create, for a node that joins OTHER's cluster. It runs the same RabbitMQ and
# shares the epmd.
create_beside() {
    local ports
    ports="$(free_ports 1 "$MANAGEMENT_ABOVE") $(free_ports 1)"
    # shellcheck disable=SC2086 # two words
    note node "$(noted root "$1")" $ports "$(noted epmd_port "$1")"
}

# note KIND ROOT AMQP_PORT DIST_PORT EPMD_PORT
note() {
    {
        echo "kind=$1"
        echo "node=rabbit-$(printf '%s' "$dir" | sha256sum | cut -c 1-12)@localhost"
        printf 'amqp_port=%s\ndist_port=%s\nepmd_port=%s\n' "${@:3}"
        echo "root=$2"
    } >"$dir/node.new"
    mv "$dir/node.new" "$dir/node"
}

# free_ports COUNT [ABOVE]
free_ports() { "$(dirname -- "${BASH_SOURCE[0]}")/free-ports.sh" "$@"; }

print_url() { echo "amqp://guest:guest@127.0.0.1:$amqp_port/%2f"; }

print_management() { echo "http://guest:guest@127.0.0.1:$management_port"; }

# ---- Processes -----------------------------------------------------------------------------------------------

# in_node COMMAND...: replaces this process with COMMAND, in the environment of the node and no other.
in_node() {
    local enter=()
    if [[ -n $root ]]; then
        # RabbitMQ measures memory through /proc, and rabbitmqctl is given files in /tmp. They are mounted in
        # a separate namespace, so the mounts disappear with the process.
        # shellcheck disable=SC2016 # for the inner shell
        enter=(unshare --mount bash -c 'mount -t proc proc "$0/proc" && mount --bind /tmp "$0/tmp" && exec chroot "$0" "$@"' "$root")
    fi
    exec "${enter[@]}" /usr/bin/env -i -C "$home" \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        LANG=C.UTF-8 \
        HOME="$home" \
        ERL_EPMD_PORT="$epmd_port" \
        ERL_EPMD_ADDRESS=127.0.0.1 \
        ERL_CRASH_DUMP="$home/erl_crash.dump" \
        RABBITMQ_NODENAME="$node" \
        RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
        RABBITMQ_NODE_PORT="$amqp_port" \
        RABBITMQ_DIST_PORT="$dist_port" \
        RABBITMQ_MNESIA_BASE="$home/data" \
        RABBITMQ_LOG_BASE="$home/log" \
        RABBITMQ_PID_FILE="$home/rabbitmq.pid" \
        RABBITMQ_GENERATED_CONFIG_DIR="$home/config" \
        RABBITMQ_FEATURE_FLAGS_FILE="$home/feature_flags" \
        RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf" \
        RABBITMQ_ADVANCED_CONFIG_FILE="$home/advanced.config" \
        RABBITMQ_CONF_ENV_FILE="$home/rabbitmq-env.conf" \
        RABBITMQ_ENABLED_PLUGINS_FILE="$home/enabled_plugins" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
        RUNNING_UNDER_SYSTEMD=true \
        "$@"
    # RUNNING_UNDER_SYSTEMD: the server's shell script then replaces itself with the Erlang machine instead of
    # waiting for it, so the process that this script started is the one to signal. Nothing else depends on
    # the variable.
}

# detach NAME COMMAND...: starts COMMAND in a separate session, without any of this script's open files. Its
# process id and its start time are written to DIR/NAME.pid, and its output to NAME.out.
detach() {
    local name=$1
    shift
    (
        for fd in /proc/"$BASHPID"/fd/*; do
            fd=${fd##*/}
            # 255 belongs to bash itself and is closed on exec.
            if ((fd > 2 && fd != 255)); then exec {fd}>&-; fi
        done
        exec </dev/null >>"$files/$name.out" 2>&1
        ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"
        # A script's background process does not lead a process group, so setsid keeps its id, as does every
        # later exec.
        in_node_session "$@" &
        echo "$! $(started $!)" >"$dir/$name.pid"
    )
}

in_node_session() {
    export -f in_node
    export root home epmd_port node amqp_port dist_port
    exec setsid bash -c 'in_node "$@"' in_node "$@"
}

# started PID: prints the kernel's start time of a process, in ticks; nothing if it is gone or a zombie.
started() {
    local line fields
    read -r line <"/proc/$1/stat" || return 0
    # The command's name, in brackets, may contain spaces. State and start time are the fields 1 and 20 after
    # it.
    read -r -a fields <<<"${line##*) }"
    if [[ ${fields[0]} != Z ]]; then echo "${fields[19]}"; fi
} 2>/dev/null

# ours NAME: succeeds if the process in DIR/NAME.pid is alive and is the one that was started, since ids are
# reused.
ours() {
    local id start
    read -r id start <"$dir/$1.pid" || return 1
    [[ -n $start && $(started "$id") == "$start" ]]
} 2>/dev/null

# signal NAME SIGNAL: sends a signal; does nothing if the process is gone.
signal() {
    if ours "$1"; then kill -s "$2" "$(cut -d ' ' -f 1 "$dir/$1.pid")" 2>/dev/null || true; fi
}

gone() { ! ours "$1"; }

# within SECONDS CONDITION...: polls CONDITION ten times per second; fails if it does not succeed in time.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        if ((SECONDS >= deadline)); then return 1; fi
        sleep 0.1
    done
}

# end NAME SIGNAL: sends the signal, waits, and kills a process that does not exit in time.
end() {
    signal "$1" "$2"
    # A paused process would react only to SIGKILL.
    signal "$1" CONT
    if ! within "$STOP_SECONDS_MAX" gone "$1"; then
        say "$1 did not end within ${STOP_SECONDS_MAX} s: killing it"
        signal "$1" KILL
        within 5 gone "$1" || die "$1 survives SIGKILL"
    fi
    # Emptied instead of deleted, because the nodes of a cluster share the file of their epmd.
    if [[ -e $dir/$1.pid ]]; then : >"$dir/$1.pid"; fi
}

# end_epmd SIGNAL: stops epmd, unless another node of the cluster is registered with it.
end_epmd() {
    if ! is_shared; then end epmd "$1"; fi
}

# (rabbitmqctl also registers, as rabbitmqcli-...)
is_shared() {
    (in_node epmd -names) 2>/dev/null |
        awk -v own="${node%@*}" '$1 == "name" && $2 ~ /^rabbit-/ && $2 != own { found = 1 } END { exit !found }'
}

# ---- Whether it answers --------------------------------------------------------------------------------------

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
is_silent() { ! listens "$1"; }

# Sends the AMQP protocol header and expects the first octet of a method frame (Connection.Start). An open
# port is not enough: Docker's proxy listens before the broker in the container does.
speaks_amqp() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$amqp_port"
        printf 'AMQP\0\0\11\1' >&3
        IFS= LC_ALL=C read -r -t 2 -N 1 octet <&3
        [[ $octet == $'\1' ]]
    ) 2>/dev/null
}

answers_or_ended() { gone broker || speaks_amqp; }

# ---- A node of our own ---------------------------------------------------------------------------------------

# Prints the directory of the scripts that run as the calling user; those in PATH change to the user
# `rabbitmq`. Prints nothing if RabbitMQ is not installed (in ROOT, if given).
server_scripts() {
    local root=${1:-} server
    if [[ -x $root/usr/lib/rabbitmq/bin/rabbitmq-server ]]; then
        echo /usr/lib/rabbitmq/bin
    elif [[ -z $root ]] && server=$(command -v rabbitmq-server); then
        dirname -- "$(readlink -f -- "$server")"
    fi
}

write_configuration() {
    mkdir -p "$files/data" "$files/log" "$files/config"
    cat >"$files/rabbitmq.conf" <<CONF
log.file.level = warning
log.console = false
# The node refuses publishers when less is free. 50 MB are enough for tests on a nearly full disk.
disk_free_limit.absolute = 50MB
# In a cluster, a node that sees no majority stops serving, and recovers by itself. By default, it would
# continue alone after a partition, and would not rejoin the others when the network works again.
cluster_partition_handling = pause_minority
management.tcp.ip = 127.0.0.1
management.tcp.port = $management_port
# No test reads these statistics, and they cost processor time.
management_agent.disable_metrics_collector = true
CONF
    # If the leader of the target queue is lost, a delay queue publishes its dead letters again after this
    # time, which is 180 s by default.
    echo '[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 10000}]}].' >"$files/advanced.config"
    write_plugins
    # An empty file, so that the one in /etc/rabbitmq is not read.
    : >"$files/rabbitmq-env.conf"
}

start_epmd() {
    ours epmd || detach epmd epmd
    within 10 listens "$epmd_port" || die "epmd does not listen on 127.0.0.1:$epmd_port: see $files/epmd.out"
}

start_node() {
    local scripts
    if ours broker && speaks_amqp; then return; fi
    scripts=$(server_scripts "$root")
    [[ -n $scripts ]] || die "rabbitmq-server is not installed${root:+ in $root}: apt-get install rabbitmq-server, or: $0 find DIR"
    [[ -z $root || $EUID -eq 0 ]] || die "MAGNETITE_RABBITMQ_ROOT needs root (chroot)"
    write_configuration
    if ! ours broker; then
        # The sockets of a process that was just killed may exist a little longer than its process id.
        if ! within 10 is_silent "$amqp_port"; then die "port $amqp_port of $dir is taken by another process: end that, or: $0 remove $dir"; fi
        start_epmd
        rm -f -- "$dir/running"
        detach broker "$scripts/rabbitmq-server"
    fi
    within "$START_SECONDS_MAX" answers_or_ended || die "no AMQP on 127.0.0.1:$amqp_port after ${START_SECONDS_MAX} s: see $files/log and $files/broker.out"
    if gone broker; then
        tail -n 20 "$files/broker.out" >&2 || true
        end_epmd TERM
        die "RabbitMQ ended while starting: see $files/log and $files/broker.out"
    fi
}

# `magnetite doctor` reads policies and bindings from the management API. The second plugin lets clients log
# in with a certificate.
write_plugins() { echo '[rabbitmq_management, rabbitmq_auth_mechanism_ssl].' >"$files/enabled_plugins"; }

# ---- A container ---------------------------------------------------------------------------------------------

container() { echo "magnetite-${node%@*}"; }

docker_runs() { command -v docker >/dev/null && docker info >/dev/null 2>&1; }

start_container() {
    if speaks_amqp; then return; fi
    if docker container inspect "$(container)" >/dev/null 2>&1; then
        docker start "$(container)" >&2
    else
        say "starting $DOCKER_IMAGE with Docker as $(container)"
        write_plugins
        docker run --detach --name "$(container)" --hostname "${node%@*}" \
            --volume "$files/enabled_plugins:/etc/rabbitmq/magnetite_plugins:ro" \
            --env RABBITMQ_ENABLED_PLUGINS_FILE=/etc/rabbitmq/magnetite_plugins \
            --publish "127.0.0.1:$amqp_port:5672" --publish "127.0.0.1:$management_port:15672" "$DOCKER_IMAGE" >&2
    fi
    within "$START_SECONDS_MAX" speaks_amqp || die "no AMQP on 127.0.0.1:$amqp_port after ${START_SECONDS_MAX} s: docker logs $(container)"
}

# stop_container SIGNAL
stop_container() {
    docker container inspect "$(container)" >/dev/null 2>&1 || return 0
    if [[ $1 == KILL ]]; then
        docker kill "$(container)" >&2
    else
        docker stop "$(container)" >&2
        docker rm --volumes "$(container)" >&2
    fi
}

# ---- Installation --------------------------------------------------------------------------------------------

as_root() {
    if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi
}

# Installs the package without starting its service, because only a private node is needed. An existing
# service is not affected, because nothing is installed then.
install_server() {
    command -v apt-get >/dev/null || die "no broker found and no apt-get to install one: set MAGNETITE_BROKER__URL"
    [[ $EUID -eq 0 ]] || command -v sudo >/dev/null ||
        die "no broker found: set MAGNETITE_BROKER__URL, start Docker, or as root: apt-get install rabbitmq-server"
    say "no MAGNETITE_BROKER__URL, no rabbitmq-server, no running Docker: installing rabbitmq-server with apt-get; its service stays off"
    if [[ ! -e $POLICY ]]; then
        trap 'as_root rm -f "$POLICY"' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
        as_root chmod 755 "$POLICY"
    fi
    local log
    log=$(mktemp "${TMPDIR:-/tmp}/install-rabbitmq.XXXXXX.log")
    if ! {
        as_root apt-get update -q &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends rabbitmq-server
    } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "rabbitmq-server cannot be installed: all that apt-get said is in $log"
    fi
    rm -f -- "$log"
    if [[ -d /run/systemd/system ]]; then as_root systemctl disable --quiet --now rabbitmq-server >&2; fi
}

# ---- Commands ------------------------------------------------------------------------------------------------

# Holds DIR's lock until this script exits. Two concurrent starts would otherwise run two nodes on the same
# data.
lock() {
    exec 9>"$dir/lock"
    flock -w 120 9 || die "another $0 holds $dir/lock"
}

# prepare DIR CREATE...: records a new node with CREATE if DIR has none.
prepare() {
    mkdir -p -- "$1"
    dir=$(absolute "$1") || die "cannot enter $1"
    if ! is_noted && [[ -n $(find "$dir" -mindepth 1 -maxdepth 1 ! -name lock ! -name 'node*') ]]; then
        die "$dir is not empty and holds no broker: choose a new directory (remove deletes all of it)"
    fi
    lock
    is_noted || "${@:2}"
    load
}

start() {
    prepare "$1" create node
    if [[ $kind == docker ]]; then start_container; else start_node; fi
    print_url
}

join() {
    local other cookie
    [[ ! -e $1/node ]] || die "$1 holds a node already: start it with: $0 start $1"
    dir=$(absolute "$2") || die "$2 does not exist"
    load
    ours broker || die "no node of ours runs in $dir: start it with: $0 start $dir"
    other=$dir
    cookie=$files/.erlang.cookie
    prepare "$1" create_beside "$other"
    # A node creates a cookie only if there is none.
    mkdir -p "$files"
    cp -p "$cookie" "$files/.erlang.cookie"
    # A hard link: whichever node has started epmd, the last node to stop also stops epmd.
    ln "$other/epmd.pid" "$dir/epmd.pid"
    start_node
    in_cluster stop_app
    in_cluster join_cluster "$(noted node "$other")"
    in_cluster start_app
    within "$START_SECONDS_MAX" speaks_amqp || die "no AMQP on 127.0.0.1:$amqp_port after joining: see $files/log"
    print_url
}

in_cluster() { (in_node "$(server_scripts "$root")/rabbitmqctl" --quiet "$@") >&2; }

# send DIR SIGNAL: sends a signal to the running node.
send() {
    dir=$(absolute "$1") || die "$1 does not exist"
    load
    [[ $kind == node ]] || die "$dir holds a container: docker pause $(container)"
    ours broker || die "the node of $dir does not run"
    signal broker "$2"
}

find_broker() {
    if [[ -n ${MAGNETITE_BROKER__URL:-} ]]; then
        printf '%s\n' "$MAGNETITE_BROKER__URL"
    elif [[ -e $1/node || -n ${MAGNETITE_RABBITMQ_ROOT:-} || -n $(server_scripts) ]]; then
        start "$1"
    elif docker_runs; then
        prepare "$1" create docker
        start_container
        print_url
    else
        install_server
        start "$1"
    fi
}

# stop DIR SIGNAL: stops the broker of DIR; does nothing if DIR has none.
stop() {
    dir=$(absolute "$1") || return 0
    is_noted || return 0
    lock
    load
    if [[ $kind == docker ]]; then
        stop_container "$2"
    else
        end broker "$2"
        end_epmd "$2"
    fi
}

remove() {
    stop "$1" TERM
    dir=$(absolute "$1") || return 0
    is_noted || return 0
    load
    rm -rf -- "$files" "$dir"
}

ctl() {
    dir=$(absolute "$1") || die "$1 does not exist"
    shift
    load
    if [[ $kind == docker ]]; then exec docker exec "$(container)" rabbitmqctl "$@"; fi
    # A node listens some seconds before it accepts every command.
    if [[ ! -e $dir/running ]]; then
        within "$START_SECONDS_MAX" is_running || die "RabbitMQ listens and does not go on: see $files/log and $files/broker.out"
        : >"$dir/running"
    fi
    in_node "$(server_scripts "$root")/rabbitmqctl" "$@"
}

# Keeps standard input for the command that follows.
is_running() {
    local answer
    answer=$( (in_node "$(server_scripts "$root")/rabbitmqctl" --quiet eval 'rabbit:is_running().') </dev/null 2>/dev/null) || return
    [[ $answer == true ]]
}

show_log() {
    dir=$(absolute "$1") || die "$1 does not exist"
    load
    if [[ $kind == docker ]]; then exec docker logs "$(container)"; fi
    cat "$files/log/$node.log"
}

# show DIR WHAT: prints WHAT, which is url or management.
show() {
    dir=$(absolute "$1") || die "$1 does not exist"
    load
    "print_$2"
}

main() {
    if [[ $# -eq 1 && $1 == install ]]; then
        [[ -n $(server_scripts "${MAGNETITE_RABBITMQ_ROOT:-}") ]] || install_server
        return
    fi
    [[ $# -ge 2 && -n $2 ]] || usage
    case $1 in
        start) start "$2" ;;
        join) if [[ $# -eq 3 ]]; then join "$2" "$3"; else usage; fi ;;
        find) find_broker "$2" ;;
        url | management) show "$2" "$1" ;;
        log) show_log "$2" ;;
        stop) stop "$2" TERM ;;
        kill) stop "$2" KILL ;;
        pause) send "$2" STOP ;;
        resume) send "$2" CONT ;;
        remove) remove "$2" ;;
        ctl) ctl "${@:2}" ;;
        *) usage ;;
    esac
}

main "$@"
