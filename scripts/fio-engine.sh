#!/usr/bin/env bash
# Builds the fio engine "srpt" for the fio that is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/fio-engine.sh [--debug]

Builds target/release/libsrpt_fio.so for the installed fio, against the headers of the
distribution's source package of the same version. They are fetched once and kept, unpacked, in
the user's cache (SRPT_FIO_SOURCE=DIR uses a source tree that is there already). Then:

  fio --ioengine=external:$PWD/target/release/libsrpt_fio.so --filename=/run/srpt.sock ...

  --debug   the engine with debug assertions, target/debug/libsrpt_fio.so
  --help    this text
USAGE
}

profile=release
case "${1:-}" in
    "") ;;
    --debug) profile=debug ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin:$PATH"
fail() { echo "fio-engine: $*" >&2; exit 1; }
command -v fio >/dev/null || fail "fio is not installed (scripts/setup.sh --bench)"
version=$(fio --version)
version=${version#fio-}

# The headers of exactly this version, configured once.
source_tree() {
    local cache=${XDG_CACHE_HOME:-$HOME/.cache}/srpt/fio-$version
    if [ -f "$cache/config-host.h" ]; then
        echo "$cache"
        return
    fi
    local package scratch apt
    package=$(dpkg-query --show --showformat='${source:Package}=${source:Version}' fio) ||
        fail "fio is not from a Debian package: set SRPT_FIO_SOURCE to its source tree"
    scratch=$(mktemp -d)
    # Also where no deb-src line is configured: the binary packages' lists, read as sources.
    mkdir -p "$scratch/lists/partial" "$scratch/parts"
    sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$scratch/parts/a.list" 2>/dev/null || true
    local file
    for file in /etc/apt/sources.list.d/debian*.sources /etc/apt/sources.list.d/ubuntu*.sources; do
        [ ! -f "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" >"$scratch/parts/$(basename "$file")"
    done
    apt=(-qq -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$scratch/parts"
        -o "Dir::State::Lists=$scratch/lists" -o "APT::Sandbox::User=$(id -un)")
    apt-get "${apt[@]}" update >&2 || fail "the lists of source packages can't be fetched"
    (cd "$scratch" && apt-get "${apt[@]}" source --download-only "$package" >&2) ||
        fail "the source package $package can't be fetched"
    mkdir "$scratch/tree"
    tar --extract --file "$(ls "$scratch"/*.orig.tar.*z)" --directory "$scratch/tree" --strip-components 1
    (cd "$scratch/tree" && ./configure --disable-native >/dev/null) || fail "configuring fio's source"
    mkdir -p "$(dirname "$cache")"
    rm -rf "$cache"
    mv "$scratch/tree" "$cache"
    rm -rf "$scratch"
    echo "$cache"
}

tree=${SRPT_FIO_SOURCE:-$(source_tree)}
[ -f "$tree/config-host.h" ] || fail "$tree has no config-host.h: run its configure first"
flags=(-O2)
cargo_flags=(--release)
[ "$profile" = release ] || { flags=(-g); cargo_flags=(); }
cargo build --quiet --workspace --lib "${cargo_flags[@]}"
bin="${CARGO_TARGET_DIR:-target}/$profile"
# fio's headers are written for gnu99 and warn about nothing of ours.
cc "${flags[@]}" -std=gnu99 -Wall -Wno-stringop-truncation -Wno-sign-compare -shared -fPIC \
    -D_GNU_SOURCE -DFIO_EXTERNAL_ENGINE -include "$tree/config-host.h" -I "$tree" -I bench/engine \
    -o "$bin/libsrpt_fio.so" bench/engine/shim.c "$bin/libsrpt_fio.a" -lpthread -ldl -lm
echo "$bin/libsrpt_fio.so, for fio $version"
