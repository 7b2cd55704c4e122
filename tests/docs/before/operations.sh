# shellcheck shell=bash
# The system runs.
magnetite up 2>"$TMPDIR/up.log" &
curl http://127.0.0.1:8085/readyz >/dev/null

publish_what_is_no_event() {
    # RabbitMQ's management API is 10000 ports above.
    local port
    port=${MAGNETITE_BROKER__URL##*:}
    curl "http://guest:guest@127.0.0.1:$((${port%%/*} + 10000))/api/exchanges/%2f/magnetite.events/publish" --json \
        '{"routing_key": "lead.completed", "properties": {}, "payload": "none", "payload_encoding": "string"}' || return
    until magnetite rejected list | grep rej_; do sleep 0.2; done
}

# An endpoint of a customer's, which was down when an event came.
have_an_endpoint_down() {
    magnetite endpoint create --org org_123abc --url https://hooks.example.com/magnetite || return
    echo 503 >"$OUTCOME"
    magnetite publish --event lead.completed --org org_123abc --project proj_456def --lead lead_789ghi || return
    until magnetite delivery list --state dead | grep dlv_; do sleep 0.2; done
    rm "$OUTCOME"
}

before() {
    case $1 in
        "Customer X did not get event Y") have_an_endpoint_down ;;
        "A bad event is in rejected") publish_what_is_no_event ;;
    esac
}
