#!/usr/bin/env bash
# Builds the Debian packages srpt-tgt and srpt-tgt-tools from this checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
Usage: scripts/package.sh [--out FOLDER] [--version VERSION] [--test]

Builds the release binaries and from them two packages for this Debian and this kind of processor:
  srpt-tgt         srpt_tgt, srpt_setup, the systemd unit, configuration, manual
  srpt-tgt-tools   srpt_rpc, srpt_perf, srpt_dd, bdevperf, completion for bash
The same commit, built at the same place, gives the same bytes. lintian looks at them where it is installed.

  --out FOLDER       where they go (default: target/debian)
  --version VERSION  version of the packages (default: version, date and commit)
  --test             installs, upgrades, removes and purges them in a Debian root made by debootstrap;
                     needs root
  --help             this text
USAGE
}

out=target/debian
version=""
test=no
while [ $# -gt 0 ]; do
    case "$1" in
        --out) out=${2:?--out needs a folder}; shift ;;
        --version) version=${2:?--version needs a version}; shift ;;
        --test) test=yes ;;
        --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
fail() { echo "package: $*" >&2; exit 1; }
for tool in dpkg-deb dpkg-shlibdeps git python3; do
    command -v $tool >/dev/null || fail "$tool is missing (packages dpkg-dev, git, python3)"
done

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
export SOURCE_DATE_EPOCH SRPT_COMMIT LC_ALL=C.UTF-8 TZ=UTC
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
SRPT_COMMIT=$(git rev-parse --short=12 HEAD)
[ -z "$(git status --porcelain)" ] || SRPT_COMMIT+=-changed
series=$(sed -n '/^\[workspace.package\]/,/^version/s/^version = "\(.*\)"/\1/p' Cargo.toml)
: "${version:=$series~git$(date -d "@$SOURCE_DATE_EPOCH" +%Y%m%d.%H%M%S).${SRPT_COMMIT//-/.}}"
maintainer=$(git log -1 --format='%an <%ae>')
day=$(date -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)
architecture=$(dpkg --print-architecture)

cargo build --quiet --release --workspace --bin srpt_tgt --bin srpt_perf --bin srpt_dd --bin bdevperf
bin=$(realpath "${CARGO_TARGET_DIR:-target}")/release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
out=$(realpath "$out")
# What an earlier run has left is not taken for what this one builds.
rm -f "$out"/srpt-tgt{,-tools}_"${version}_$architecture".deb

# put ROOT MODE FROM TO: a file into a package.
put() { install -D -m "$2" "$3" "$work/$1/$4"; }
program() { # ROOT NAME FOLDER: without what only a debugger reads
    put "$1" 755 "$bin/$2" "$3/$2"
    strip --strip-unneeded --remove-section=.comment "$work/$1/$3/$2"
}
compressed() { # ROOT TO: standard input
    mkdir -p "$(dirname "$work/$1/$2")"
    gzip -9n >"$work/$1/$2"
    chmod 644 "$work/$1/$2"
}
page() { # ROOT SECTION NAME "one line" PROGRAM..: its manual page, from --help
    local root=$1 section=$2 name=$3 about=$4
    shift 4
    "$@" --help | python3 packaging/manpage.py "$name" "$section" "$series" "$day" "$about" |
        compressed "$root" "usr/share/man/man$section/$name.$section.gz"
}
completion() { # NAME PROGRAM..: its options
    local name=$1 words
    shift
    words=$("$@" --help | grep -oE -- '(^|[ ,])--?[a-zA-Z][a-zA-Z-]*' | tr -d ' ,' | sort -u | tr '\n' ' ')
    mkdir -p "$work/tools/usr/share/bash-completion/completions"
    echo "complete -o default -W '${words% }' $name" >"$work/tools/usr/share/bash-completion/completions/$name"
}

t=target
program $t srpt_tgt usr/sbin
put $t 755 scripts/srpt_setup usr/sbin/srpt_setup
put $t 644 packaging/srpt_tgt.service lib/systemd/system/srpt_tgt.service
put $t 644 packaging/sysusers.conf usr/lib/sysusers.d/srpt_tgt.conf
put $t 644 packaging/tmpfiles.conf usr/lib/tmpfiles.d/srpt_tgt.conf
put $t 644 packaging/config.json etc/srpt_tgt/config.json
put $t 644 packaging/default etc/default/srpt_tgt
for name in modules-load.conf 60-srpt-initiator.rules; do
    put $t 644 packaging/$name usr/share/doc/srpt-tgt/examples/$name
done
while read -r name; do
    put $t 644 "docs/$name" "usr/share/doc/srpt-tgt/manual/$name"
done < <(cd docs && find . -name '*.md' | sort)
page $t 8 srpt_tgt "SCSI RDMA Protocol target" "$bin/srpt_tgt"
page $t 8 srpt_setup "prepares a host for srpt_tgt" scripts/srpt_setup

u=tools
for name in srpt_perf srpt_dd bdevperf; do
    program $u $name usr/bin
done
put $u 755 packaging/srpt_rpc usr/bin/srpt_rpc
put $u 755 scripts/rpc.py usr/share/srpt-tgt/rpc.py
for name in rpc_commands.py rpc_methods.json srpt_spdk.py; do
    put $u 644 scripts/$name usr/share/srpt-tgt/$name
done
page $u 1 srpt_perf "measures an SRP target" "$bin/srpt_perf"
page $u 1 srpt_dd "copies into and out of a logical unit behind SRP" "$bin/srpt_dd"
page $u 1 bdevperf "measures block devices of srpt_tgt" "$bin/bdevperf"
page $u 1 srpt_rpc "calls the methods of srpt_tgt" python3 scripts/rpc.py
for name in srpt_perf srpt_dd bdevperf; do
    completion $name "$bin/$name"
done
completion srpt_tgt "$bin/srpt_tgt"
completion srpt_rpc python3 scripts/rpc.py
methods=$(python3 -c 'import json; print(*(m["name"] for m in json.load(open("scripts/rpc_methods.json"))["methods"]))')
sed -i "s/-W '/-W '$methods /" "$work/tools/usr/share/bash-completion/completions/srpt_rpc"

for root in $t $u; do
    name=srpt-tgt
    [ "$root" = $t ] || name=srpt-tgt-tools
    doc=usr/share/doc/$name
    put "$root" 644 packaging/copyright "$doc/copyright"
    printf '%s (%s) unstable; urgency=medium\n\n  * Built from commit %s: see CHANGELOG.md.\n\n -- %s  %s\n' \
        "$name" "$version" "$SRPT_COMMIT" "$maintainer" "$(date -R -d "@$SOURCE_DATE_EPOCH")" | compressed "$root" "$doc/changelog.gz"
    mkdir -p "$work/$root/DEBIAN" "$work/shlibs/debian"
    touch "$work/shlibs/debian/control"
    programs=(srpt_perf srpt_dd bdevperf)
    [ "$root" != $t ] || programs=(srpt_tgt)
    libraries=$(cd "$work/shlibs" && dpkg-shlibdeps --warnings=0 -O "${programs[@]/#/$bin/}")
    sed -e "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@MAINTAINER@/$maintainer/; s/@LIBRARIES@/${libraries#shlibs:Depends=}/" \
        -e "s/@KIB@/$(du -sk --apparent-size "$work/$root" | cut -f1)/" \
        "packaging/$root/control" >"$work/$root/DEBIAN/control"
    for script in conffiles preinst postinst prerm postrm; do
        [ ! -f "packaging/$root/$script" ] ||
            install -m "$([ $script = conffiles ] && echo 644 || echo 755)" "packaging/$root/$script" "$work/$root/DEBIAN/$script"
    done
    (cd "$work/$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$work/$root/DEBIAN/md5sums"
    find "$work/$root" -type d -exec chmod 755 {} +
    find "$work/$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group -Zxz --build "$work/$root" "$out/${name}_${version}_$architecture.deb" >/dev/null
done
(cd "$out" && sha256sum srpt-tgt{,-tools}_"${version}_$architecture".deb)
if command -v lintian >/dev/null; then
    lintian --allow-root --fail-on error "$out"/srpt-tgt{,-tools}_"${version}_$architecture".deb
    echo "package: lintian has no errors"
else
    echo "package: lintian is not installed: the packages were NOT looked at"
fi
[ $test = no ] || scripts/package-test.sh "$out"/srpt-tgt{,-tools}_"${version}_$architecture".deb
