# shellcheck shell=bash
# The API serves.
magnetite up 2>"$TMPDIR/up.log" &
curl http://127.0.0.1:8085/readyz >/dev/null

have_an_endpoint_down() {
    echo 503 >"$OUTCOME"
}

# The last id that is printed is that of the delivery to the endpoint that was down.
have_an_endpoint_back() {
    until magnetite delivery list --state dead | grep dlv_; do sleep 0.2; done
    rm "$OUTCOME"
}

before() {
    case $1 in
        # The reader's machine has no configuration, and this one has.
        "Use it") export MAGNETITE_PROFILE=default ;;
        "Find out what failed") have_an_endpoint_down ;;
        "Send it again") have_an_endpoint_back ;;
    esac
}
