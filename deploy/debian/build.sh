#!/usr/bin/env bash
# Builds the Debian package for the Debian release that it runs on, or a later one:
#
#   deploy/debian/build.sh [ARG...]     ARGs are passed to `cargo deb`, such as --deb-version 0.1.0-2
#
# Prints the paths of two packages: first that of the debug information, then that of the program. Needs Rust and
# dpkg-dev. Installs cargo-deb 3.8 if it is missing. PROFILE selects a Cargo profile other than `release`.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
readonly repository
readonly profile=${PROFILE:-release}
readonly generated=$repository/target/debian-files

cd "$repository"
command -v dpkg-shlibdeps >/dev/null || {
    echo "build.sh: there is no dpkg-shlibdeps: apt-get install dpkg-dev" >&2
    exit 1
}
if [[ $(cargo deb --version 2>/dev/null) != 'cargo-deb 3.'* ]]; then cargo install cargo-deb --version '^3.8' --locked >&2; fi
cargo build --profile "$profile" --locked --package magnetite-cli >&2

# The program generates its own manual pages and completions.
directory=$profile
[[ $profile != dev ]] || directory=debug
magnetite=${CARGO_TARGET_DIR:-target}/$directory/magnetite
rm -rf -- "$generated"
mkdir -p "$generated/completions"
"$magnetite" man "$generated/man"
for shell in bash zsh fish; do "$magnetite" completions "$shell" >"$generated/completions/$shell"; done

packages=$(cargo deb --package magnetite-cli --profile "$profile" --no-build --quiet "$@")
dpkg-deb --field "${packages##*$'\n'}" Depends | grep --quiet libc6 || {
    echo "build.sh: the package depends on no libc6: dpkg-shlibdeps has failed" >&2
    exit 1
}
echo "$packages"
