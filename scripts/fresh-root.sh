#!/usr/bin/env bash
# README's two commands in a Debian that has seen nothing: from a fresh clone, in a root made for it.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/fresh-root.sh [--keep] [--log FOLDER] [option of scripts/test.sh]..

Makes a root with debootstrap: a minimal Debian, and what README asks for, git and Rust. Its packages
come from where the host's come from; of rustup it has the host's toolchain, read-only. Clones the last
commit of this checkout into it and runs scripts/quickstart.sh, then scripts/test.sh. Prints how long
each took, ends whatever is left running, and removes the root. Takes about as long as scripts/test.sh
where nothing is cached, twice 3 GB of disk, and root.

  --keep         leaves the root, in target/fresh-root
  --log FOLDER   the outputs go there, as quickstart.log and test.log (default: target/fresh-root.log)
  --help         this text
USAGE
}

suite=bookworm
keep=no
log=target/fresh-root.log
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --keep) keep=yes ;;
        --log) log=${2:?--log needs a folder}; shift ;;
        --help) usage; exit 0 ;;
        *) options+=("$1") ;;
    esac
    shift
done
fail() { echo "fresh-root: $*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || fail "debootstrap and chroot need root"
command -v debootstrap >/dev/null || fail "debootstrap is not installed (scripts/setup.sh --test-tools)"

root=$PWD/target/fresh-root
mkdir -p "$log"
log=$(realpath "$log")
rm -rf --one-file-system "$root"
[ "$keep" = yes ] || trap 'rm -rf --one-file-system "$root"' EXIT

say() { echo "fresh-root: $*"; }
say "a minimal Debian $suite, and git"
# shellcheck disable=SC2016  # apt's own variables
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' "Codename: $suite" | head -1)
debootstrap --variant=minbase --include=ca-certificates,git "$suite" "$root" ${mirror:+"$mirror"} \
    >"$log/debootstrap.log" 2>&1 || { tail -20 "$log/debootstrap.log" >&2; fail "debootstrap failed"; }

# The host's way to the archive, and whom the host trusts.
rm -f "$root/etc/apt/sources.list"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian*.sources /etc/resolv.conf /etc/hosts; do
    [ ! -f "$file" ] || cp "$file" "$root$file"
done
cp /usr/share/keyrings/debian-archive-* "$root/usr/share/keyrings/"
find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$root/usr/local/share/ca-certificates/" \;
chroot "$root" update-ca-certificates >/dev/null 2>&1

# Rust as rustup installs it: its programs are links to one that picks the toolchain.
cargo=${CARGO_HOME:-$HOME/.cargo}
rustup=${RUSTUP_HOME:-$HOME/.rustup}
[ -x "$cargo/bin/rustup" ] || fail "no rustup in $cargo/bin"
mkdir -p "$root/root/.cargo/bin" "$root/root/.rustup"
for name in rustup cargo cargo-clippy cargo-fmt clippy-driver rustc rustdoc rustfmt; do
    cp --no-dereference "$cargo/bin/$name" "$root/root/.cargo/bin/"
done
for name in config config.toml; do
    [ ! -f "$cargo/$name" ] || cp "$cargo/$name" "$root/root/.cargo/$name"
done

git clone --quiet "$PWD" "$root/root/clone"
say "commit $(git rev-parse --short HEAD), $(nproc) cores"

# run NAME COMMAND..: in the root, with mounts and processes of its own that end with it.
run() {
    local started=$SECONDS status=0
    # shellcheck disable=SC2016  # for the inner shell
    unshare --mount --pid --fork --kill-child bash -euc '
        root=$1 rustup=$2
        shift 2
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
        mount --rbind /dev "$root/dev"
        mount --bind -o ro "$rustup" "$root/root/.rustup"
        exec env --ignore-environment HOME=/root TERM=dumb LANG=C.UTF-8 \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            chroot "$root" sh -c "PATH=~/.cargo/bin:\$PATH; cd ~/clone; exec \"\$@\"" sh "$@"' \
        fresh-root "$root" "$rustup" "${@:2}" </dev/null 2>&1 | tee "$log/$1.log" || status=$?
    say "$1: $((SECONDS - started)) s, status $status"
    return $status
}
run quickstart scripts/quickstart.sh
run test scripts/test.sh "${options[@]}"
