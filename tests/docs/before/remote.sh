# shellcheck shell=bash
# The API serves.
magnetite up 2>"$TMPDIR/up.log" &
curl http://127.0.0.1:8085/readyz >/dev/null
# The reader's machine has no configuration, and this one has.
before() { [[ $1 != "Use it" ]] || export MAGNETITE_PROFILE=default; }
