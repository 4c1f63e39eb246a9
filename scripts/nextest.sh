#!/usr/bin/env bash
# Prints the folder of the test runner, cargo-nextest, and builds it when it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/nextest.sh

Prints a folder to put in front of PATH: it has cargo-nextest of a certain version, whatever else is
installed. Where it is missing it is built from source, with the features and the optimisation that
take the least time (about 100 s on two cores), and kept in the user's cache under a name made from
what it is built of. Its dependencies are downloaded into a cargo home of their own, which is removed
again.
USAGE
}

case "${1:-}" in
    "") ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

# All that decides what is built.
recipe=(cargo-nextest --version 0.9.151 --locked --debug --no-default-features
    --features default-no-update)
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
host=$(rustc --version --verbose | sed --quiet 's/^host: //p')
cache=${XDG_CACHE_HOME:-$HOME/.cache}/srpt_tgt
folder=$cache/nextest-$(sha256sum <<<"${recipe[*]} $host" | cut --characters=1-12)
if [ ! -x "$folder/bin/cargo-nextest" ]; then
    mkdir -p "$cache"
    # Two at a time would build the same twice.
    exec 9>"$cache/nextest.lock"
    flock 9
    # Of a build that was killed.
    rm -rf "$cache"/nextest.??????
fi
if [ ! -x "$folder/bin/cargo-nextest" ]; then
    scratch=$(mktemp -d "$cache/nextest.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    mkdir "$scratch/home"
    for name in config config.toml; do
        [ ! -f "${CARGO_HOME:-$HOME/.cargo}/$name" ] ||
            cp "${CARGO_HOME:-$HOME/.cargo}/$name" "$scratch/home/"
    done
    echo "nextest: building ${recipe[*]:0:3}" >&2
    # Flags that are meant for the project are none of its.
    if ! env --unset=RUSTFLAGS CARGO_HOME="$scratch/home" CARGO_PROFILE_DEV_DEBUG=0 \
        cargo install "${recipe[@]}" --target-dir "$scratch/build" --root "$scratch/root" \
        >"$scratch/log" 2>&1; then
        tail -20 "$scratch/log" >&2
        echo "nextest: ${recipe[*]} can't be built" >&2
        exit 1
    fi
    rm -rf "$folder"
    mv "$scratch/root" "$folder"
fi
echo "$folder/bin"
