#!/usr/bin/env bash
# Makes what a release consists of, and publishes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/release.sh [--out FOLDER] [--no-debs]

A dry run of a release from the last commit, which must be all there is: a source archive with the
crates that it needs (it builds without a network), the Debian packages, and SHA256SUMS. The tag is
made by hand, as CONTRIBUTING.md says.

  --out FOLDER   where the files go (default: target/release-files)
  --no-debs      only the source archive
  --help         this text
USAGE
}

out=target/release-files
debs=yes
while [ $# -gt 0 ]; do
    case "$1" in
        --out) out=${2:?--out needs a folder}; shift ;;
        --no-debs) debs=no ;;
        --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
fail() { echo "release: $*" >&2; exit 1; }
[ -z "$(git status --porcelain)" ] || fail "there are changes that are not committed"
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH" LC_ALL=C.UTF-8 TZ=UTC
version=$(sed -n '/^\[workspace.package\]/,/^version/s/^version = "\(.*\)"/\1/p' Cargo.toml)
grep --quiet "^## \[\($version\|Unreleased\)\]" CHANGELOG.md || fail "CHANGELOG.md has no section for $version"
epoch=$(git log -1 --format=%ct)
name=srpt_tgt-$version
rm -rf "$out"
mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "release: $name from commit $(git rev-parse --short=12 HEAD)"
git archive --prefix="$name/" HEAD | tar -C "$work" -x
mkdir -p "$work/$name/.cargo"
# With --quiet cargo does not print the configuration that names the folder.
(cd "$work/$name" && cargo vendor --locked --versioned-dirs vendor >.cargo/config.toml 2>"$work/vendor.log") ||
    { cat "$work/vendor.log" >&2; fail "the crates can't be had"; }
[ -s "$work/$name/.cargo/config.toml" ] || fail "cargo vendor has named no folder"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" -c "$name" |
    xz -T0 >"$out/$name.tar.xz"
# The archive names every crate without asking a registry.
mkdir "$work/try"
tar -C "$work/try" -xf "$out/$name.tar.xz"
(cd "$work/try/$name" && CARGO_HOME="$work/home" CARGO_NET_OFFLINE=true \
    cargo metadata --format-version 1 --locked --offline >/dev/null) || fail "the archive does not do without a network"
[ "$debs" = no ] || scripts/package.sh --out "$out" --version "$version-1"
(cd "$out" && find . -type f ! -name SHA256SUMS -printf '%P\0' | sort -z | xargs -0 sha256sum) >"$work/sums"
mv "$work/sums" "$out/SHA256SUMS"
echo "release: in $out, nothing is published:"
cat "$out/SHA256SUMS"
