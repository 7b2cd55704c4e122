#!/bin/sh
# Creates the RabbitMQ user of an event publisher, or resets the password and the permissions of an existing one. The
# user may write to the exchange PREFIX.events of one virtual host, and do nothing else.
#
#   PUBLISHER_PASSWORD=... publisher-user.sh [USER [PREFIX [VHOST [NODE]]]]       (by default: publisher magnetite /)
#
# Run it where rabbitmqctl reaches the node: on the node's host, or in a container that has its Erlang cookie.
set -eu

user=${1:-publisher} prefix=${2:-magnetite} vhost=${3:-/} node=${4:-}
password=${PUBLISHER_PASSWORD:-}
if [ -z "$password" ]; then
    echo "publisher-user.sh: set PUBLISHER_PASSWORD to the password that the user $user is to have" >&2
    exit 1
fi

# octets HEX: prints the bytes of a hexadecimal number.
octets() {
    for octet in $(printf '%s' "$1" | sed 's/../& /g'); do
        # shellcheck disable=SC2059 # the format is the byte
        printf "\\$(printf '%03o' "0x$octet")"
    done
}

# hashed PASSWORD: prints the hash as RabbitMQ stores it: four random bytes, then the SHA-256 of them and the
# password.
hashed() {
    salt=$(od -A n -N 4 -t x1 /dev/urandom | tr -d ' \n')
    sum=$({ octets "$salt" && printf '%s' "$1"; } | sha256sum | cut -c 1-64)
    if [ ${#salt} -ne 8 ] || [ ${#sum} -ne 64 ]; then
        echo "publisher-user.sh: the password cannot be hashed: od, tr, sha256sum and cut are needed" >&2
        return 1
    fi
    octets "$salt$sum" | base64 | tr -d '\n'
}

# quoted TEXT: prints TEXT as a JSON string.
quoted() { printf '"%s"' "$(printf '%s' "$1" | sed 's/["\\]/\\&/g')"; }

# Permissions are regular expressions for configure, write and read. A prefix may contain dots.
write="^$(printf '%s' "$prefix" | sed 's/\./\\./g')\\.events\$"

hash=$(hashed "$password")

# Every process on the host can see command-line arguments, and rabbitmqctl of some 4.0 versions cannot read
# standard input. The definitions are therefore passed in a file. It has to belong to the user `rabbitmq`,
# because rabbitmqctl runs as that user on Debian.
file=$(TMPDIR=/tmp mktemp)
trap 'rm -f -- "$file"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$file" <<JSON
{
  "users": [{
    "name": $(quoted "$user"), "tags": "",
    "password_hash": "$hash", "hashing_algorithm": "rabbit_password_hashing_sha256"
  }],
  "permissions": [{
    "user": $(quoted "$user"), "vhost": $(quoted "$vhost"),
    "configure": "^$", "write": $(quoted "$write"), "read": "^$"
  }]
}
JSON
if [ "$(id -u)" -eq 0 ] && id rabbitmq >/dev/null 2>&1; then chown rabbitmq "$file"; fi
rabbitmqctl --quiet ${node:+--node "$node"} import_definitions "$file" >/dev/null
echo "publisher-user.sh: $user may write to the exchange $prefix.events, and do nothing else" >&2
