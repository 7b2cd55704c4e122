# shellcheck shell=bash
# The API serves.
magnetite up 2>"$TMPDIR/up.log" &
curl http://127.0.0.1:8085/readyz >/dev/null
