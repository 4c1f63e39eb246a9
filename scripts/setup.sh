#!/usr/bin/env bash
# Installs what building and running needs on Debian and its relatives: only what is missing.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: scripts/setup.sh [--test-tools [--no-guest]] [--bench]

Installs what is missing: C and C++ compilers, e2fsprogs, python3, strace and Rust 1.95 or later.
Needs root or sudo only when something is missing.

  --test-tools   also what scripts/test.sh needs of the distribution: fio, git, valgrind, shellcheck,
                 the headers of rdma-core, QEMU and debootstrap for the guest
  --no-guest     not QEMU and debootstrap
  --bench        also what scripts/bench.sh needs: fio and matplotlib
  --help         this text
USAGE
}

RUST_MIN="1.95"
test_tools=no
guest=yes
bench=no
for argument in "$@"; do
    case "$argument" in
        --test-tools) test_tools=yes ;;
        --no-guest) guest=no ;;
        --bench) bench=yes ;;
        --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin:$PATH"

have() { command -v "$1" >/dev/null 2>&1; }
fail() { echo "setup: $*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "'$*' needs root, and there is no sudo"
    fi
}

updated=no
install() {
    have apt-get || fail "please install: $*  (this script knows apt-get only)"
    if [ "$updated" = no ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
        updated=yes
    fi
    echo "setup: installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}

# True when cargo is there and new enough.
rust_is_new() {
    local version
    version=$(cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
    [ -n "$version" ] && printf '%s\n' "$RUST_MIN" "$version" | sort --version-sort --check=quiet
}

missing=()
{ have cc && have c++; } || missing+=(build-essential)
have python3 || missing+=(python3)
have strace || missing+=(strace)
{ have mkfs.ext4 && have e2fsck; } || missing+=(e2fsprogs)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if [ "$test_tools" = yes ]; then
    have valgrind || missing+=(valgrind)
    have shellcheck || missing+=(shellcheck)
    have git || missing+=(git)
    # A test compares the layouts of transport/src/rdma/sys with them.
    [ -e /usr/include/rdma/rdma_cma.h ] || missing+=(librdmacm-dev)
fi
if [ "$test_tools" = yes ] && [ "$guest" = yes ]; then
    # What scripts/guest/build.sh and run.sh call.
    have qemu-system-x86_64 || missing+=(qemu-system-x86)
    have debootstrap || missing+=(debootstrap)
    have busybox || missing+=(busybox-static)
    have modprobe || missing+=(kmod)
    have cpio || missing+=(cpio)
    have zstd || missing+=(zstd)
    have xz || missing+=(xz-utils)
fi
if [ "$test_tools" = yes ] || [ "$bench" = yes ]; then
    have fio || missing+=(fio)
fi
if [ "$bench" = yes ] && ! python3 -c 'import matplotlib' 2>/dev/null; then
    /usr/bin/python3 -c 'import matplotlib' 2>/dev/null || missing+=(python3-matplotlib)
fi
[ "${#missing[@]}" -eq 0 ] || install "${missing[@]}"

if ! rust_is_new; then
    if ! have rustup && have apt-get; then
        [ "$updated" = yes ] || as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
        updated=yes
        if apt-cache policy rustup 2>/dev/null | grep -q 'Candidate: [0-9]'; then
            install rustup
        fi
    fi
    if have rustup; then
        rustup toolchain install stable --profile minimal --component rustfmt --component clippy
    fi
    rust_is_new || fail "Rust $RUST_MIN or later is needed and this system's packages have none.
    Install it as https://rustup.rs says, open a new shell and run this script again."
fi

echo "setup: ready ($(cargo --version), $(cc --version | head -1))"
