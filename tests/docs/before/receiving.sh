# shellcheck shell=bash
have_missed_an_event() {
    local key
    magnetite up 2>"$TMPDIR/up.log" &
    curl http://127.0.0.1:8085/readyz >/dev/null || return
    key=$(magnetite api-key create --org org_1 --name customer --scopes endpoints:read,deliveries:read,deliveries:write --json) || return
    MAGNETITE_API_KEY=$(jq -r .key <<<"$key")
    export MAGNETITE_API_KEY
    echo 503 >"$OUTCOME"
    magnetite endpoint create --org org_1 --url https://example.org/webhook || return
    magnetite publish --event lead.completed --org org_1 --project proj_1 --lead lead_1 || return
    until magnetite delivery list --state dead | grep dlv_; do sleep 0.2; done
}

before() {
    case $1 in
        "With curl and openssl alone") have_missed_an_event ;;
    esac
}
