#!/bin/sh
# Creates the secrets of docker-compose.yml, once, in the volume at /etc/magnetite: the passwords of
# RabbitMQ's two users and of PostgreSQL's user, the key that encrypts the endpoints' secrets, magnetite.toml,
# which contains them, and the definitions that RabbitMQ loads when it starts. If a variable such as
# RABBITMQ_PASSWORD is set at the first start, its value is used instead of a random one.
set -eu
cd /etc/magnetite

die() {
    echo "secrets.sh: $*" >&2
    exit 1
}

# secret NAME VARIABLE GIVEN COMMAND...: creates the file NAME at the first start, with GIVEN or else the
# output of COMMAND. Fails if a later GIVEN differs from the file.
secret() {
    name=$1 variable=$2 given=$3
    shift 3
    if [ ! -s "$name" ]; then
        { if [ -n "$given" ]; then printf %s "$given"; else "$@"; fi; } >"$name.new"
        mv "$name.new" "$name"
    elif [ -n "$given" ] && [ "$given" != "$(cat "$name")" ]; then
        die "$variable is not what the file $name in the volume \`secrets\` has since the first start: unset the variable, or correct the file"
    fi
}

random() { head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

# A password becomes part of a URL.
for given in "${RABBITMQ_PASSWORD:-}" "${PUBLISHER_PASSWORD:-}" "${POSTGRES_PASSWORD:-}"; do
    case $given in *[!A-Za-z0-9]*) die "a password may have letters and digits only" ;; esac
done

umask 077
secret rabbitmq-password RABBITMQ_PASSWORD "${RABBITMQ_PASSWORD:-}" random
secret publisher-password PUBLISHER_PASSWORD "${PUBLISHER_PASSWORD:-}" random
secret postgres-password POSTGRES_PASSWORD "${POSTGRES_PASSWORD:-}" random
secret secrets-key SECRETS_KEYS "${SECRETS_KEYS:-}" magnetite secrets new-key

cat >magnetite.toml.new <<TOML
[broker]
url = "amqp://magnetite:$(cat rabbitmq-password)@rabbitmq:5672/%2f"

[database]
url = "postgres://magnetite:$(cat postgres-password)@postgres:5432/magnetite?sslmode=disable"

[secrets]
keys = "$(cat secrets-key)"
TOML
chown 10001:10001 magnetite.toml.new
mv magnetite.toml.new magnetite.toml

# The publishers' user may write to magnetite.events and do nothing else. The file is readable for everyone,
# because RabbitMQ reads it as a user that is not known here. Only these containers use the volume.
cat >rabbitmq-definitions.json.new <<JSON
{
  "vhosts": [{"name": "/"}],
  "users": [
    {"name": "magnetite", "password": "$(cat rabbitmq-password)", "tags": "administrator"},
    {"name": "publisher", "password": "$(cat publisher-password)", "tags": ""}
  ],
  "permissions": [
    {"user": "magnetite", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
    {"user": "publisher", "vhost": "/", "configure": "^$", "write": "^magnetite\\\\.events$", "read": "^$"}
  ]
}
JSON
chmod 444 rabbitmq-definitions.json.new
mv rabbitmq-definitions.json.new rabbitmq-definitions.json
