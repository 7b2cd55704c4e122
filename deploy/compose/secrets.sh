#!/bin/sh
# Makes the secrets of docker-compose.yml, once, in the volume at /etc/magnetite: the passwords of RabbitMQ's two users and of PostgreSQL's,
# the key that endpoints' secrets are sealed with, magnetite.toml, which has them, and the definitions that RabbitMQ loads when it starts. A variable such as RABBITMQ_PASSWORD, set at the
# first start, is taken instead of a random value.
set -eu
cd /etc/magnetite

die() {
    echo "secrets.sh: $*" >&2
    exit 1
}

# secret NAME VARIABLE GIVEN COMMAND...: the file NAME has what was given at the first start, or else what COMMAND prints.
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

# A password becomes a part of a URL.
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

# The publishers' user may write to magnetite.events, and do nothing else. RabbitMQ reads the file as a user that is not known here; the
# volume is for these containers alone.
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
