#!/bin/sh
# Creates the RabbitMQ user of an event publisher, or gives it this password and these permissions again: it may write to the
# exchange PREFIX.events of one virtual host, and do nothing else.
#
#   PUBLISHER_PASSWORD=... publisher-user.sh [USER [PREFIX [VHOST [NODE]]]]       (by default: publisher magnetite /)
#
# Calls rabbitmqctl, so it runs where that reaches the node: on its host, or in a container that has its Erlang cookie.
set -eu

user=${1:-publisher} prefix=${2:-magnetite} vhost=${3:-/} node=${4:-}
password=${PUBLISHER_PASSWORD:-}
if [ -z "$password" ]; then
    echo "publisher-user.sh: set PUBLISHER_PASSWORD to the password that the user $user is to have" >&2
    exit 1
fi

ctl() { rabbitmqctl --quiet ${node:+--node "$node"} "$@"; }

# The password goes through standard input: arguments are seen by every process of the host.
printf '%s\n' "$password" | ctl add_user "$user" >/dev/null 2>&1 ||
    printf '%s\n' "$password" | ctl change_password "$user" >/dev/null
ctl set_user_tags "$user"

# Permissions are regular expressions: configure, write, read. A prefix may have dots.
escaped=$(printf '%s' "$prefix" | sed 's/\./\\./g')
ctl set_permissions --vhost "$vhost" "$user" '^$' "^$escaped\\.events\$" '^$'
echo "publisher-user.sh: $user may write to the exchange $prefix.events, and do nothing else" >&2
