# shellcheck shell=bash
# The API serves.
magnetite up 2>"$TMPDIR/up.log" &
curl --output /dev/null http://127.0.0.1:8085/readyz
