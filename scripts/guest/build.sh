#!/bin/bash
# Builds the guest from Debian packages, once: a stock kernel, an initramfs and a root image.
#
#   build.sh [--force] [--print]
#     --force    build again even if this recipe has been built
#     --print    print the image's directory and build nothing
#
# The result goes to ${XDG_CACHE_HOME:-~/.cache}/srpt_tgt/guest-<hash of the recipe>. Needs root on
# Debian 12; missing host packages are installed. Exit status 125 when something can't be had.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

suite=bookworm
kernel_package=linux-image-6.12-amd64
host_packages="qemu-system-x86 debootstrap busybox-static kmod cpio zstd xz-utils e2fsprogs"

force=no
for option; do
    case $option in
        --force) force=yes ;;
        --print) echo "$guest_image"; exit ;;
        *) sed --quiet '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done

mkdir --parents "$guest_cache/debs"
exec 9>"$guest_cache/build.lock"
flock 9
if [ $force = no ] && [ -f "$guest_image/root.img" ]; then
    exit 0
fi
[ "$(id --user)" = 0 ] || die "building the guest needs root (debootstrap)"

work=$guest_image.new
trap 'rm --recursive --force "$work"' EXIT
rm --recursive --force "$work"
mkdir "$work"

step() { echo "guest: $*" >&2; }

# Runs a step with its output in a log, shown only if it fails.
logged() {
    local name=$1
    shift
    "$@" >"$work/$name.log" 2>&1 && return
    tail --lines=20 "$work/$name.log" >&2
    cp "$work/$name.log" "$guest_cache/"
    die "$name failed: $guest_cache/$name.log"
}

install_host_packages() {
    local missing=""
    for package in $host_packages; do
        dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null |
            grep --quiet '^install ok installed' || missing+=" $package"
    done
    [ -n "$missing" ] || return 0
    step "installing$missing"
    logged apt-update apt-get update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive logged apt-install \
        apt-get install --yes --no-install-recommends --option DPkg::Lock::Timeout=300 $missing
}

list() { sed 's/#.*//; s/ //g; /^$/d' "$guest_here/$1"; }

bootstrap() {
    local mirror
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' "Codename: $suite" |
        head --lines=1)
    logged debootstrap debootstrap --variant=minbase --cache-dir="$guest_cache/debs" \
        --include="$(list packages.list | paste --serial --delimiters=,)" \
        "$suite" "$work/root" ${mirror:+"$mirror"}
    # Debootstrap warns and goes on without a package that it can't find.
    for package in $(list packages.list); do
        chroot "$work/root" dpkg-query --show "$package" >/dev/null 2>&1 ||
            die "Debian package $package was not installed: see debootstrap's log"
    done
}

fetch_kernel() {
    local package
    package=$(apt-cache depends "$kernel_package" 2>/dev/null |
        awk '/Depends: linux-image/ { print $2; exit }')
    [ -n "$package" ] || die "no package $kernel_package: is $suite-security among apt's sources?"
    mkdir "$work/kernel"
    (cd "$work" && logged kernel-download apt-get download "$package")
    dpkg-deb --extract "$work"/linux-image-*.deb "$work/kernel"
    kernel=${package#linux-image-}
    depmod --basedir "$work/kernel" "$kernel"
}

# The ELF kernel inside a bzImage (setup header: setup_sects, payload_offset, payload_length). QEMU
# enters it through PVH, which spares the guest the emulated decompression.
extract_kernel() {
    local image=$work/kernel/boot/vmlinuz-$kernel setup start length
    setup=$(od --address-radix=n --format=u1 --skip-bytes=0x1f1 --read-bytes=1 "$image")
    start=$(od --address-radix=n --format=u4 --skip-bytes=0x248 --read-bytes=4 "$image")
    length=$(od --address-radix=n --format=u4 --skip-bytes=0x24c --read-bytes=4 "$image")
    payload() { tail --bytes=+$(((setup + 1) * 512 + start + 1)) "$image" | head --bytes="$length"; }
    # The last word of the payload is its size, about which the decompressors complain.
    (payload | xz --decompress || payload | zstd --decompress) >"$work/vmlinux" 2>/dev/null || true
    if [ "$(head --bytes=4 "$work/vmlinux" | tail --bytes=3)" != ELF ]; then
        step "unknown kernel compression: booting the compressed kernel, slower"
        cp "$image" "$work/vmlinux"
    fi
}

# Stored uncompressed: xz under emulation is slow.
copy_modules() {
    local from=$work/kernel/lib/modules/$kernel to=$work/root/usr/lib/modules/$kernel file module
    mkdir --parents "$to"
    for module in $(list modules.list); do
        modprobe --dirname "$work/kernel" --set-version "$kernel" --show-depends "$module" ||
            step "kernel $kernel has no module $module"
    done 2>/dev/null | awk '$1 == "insmod" { print $2 }' | sort --unique |
        while read -r file; do
            local copy=$to/${file#"$from/"}
            mkdir --parents "$(dirname "$copy")"
            case $file in
                *.xz) xz --decompress --stdout "$file" >"${copy%.xz}" ;;
                *) cp "$file" "$copy" ;;
            esac
        done
    cp "$from"/modules.builtin* "$from"/modules.order "$to/"
    depmod --basedir "$work/root" "$kernel" 2>/dev/null
}

make_root_image() {
    local root=$work/root megabytes
    rm --recursive --force "$root"/var/cache/* "$root"/var/lib/apt/lists/* "${root:?}"/boot/* \
        "$root"/usr/share/{doc,man,locale,info}
    mkdir --parents "$root/host" "$root/run/vm"
    install --mode=755 "$guest_here/in/init" "$root/init"
    echo guest >"$root/etc/hostname"
    echo '127.0.0.1 localhost guest' >"$root/etc/hosts"
    megabytes=$(($(du --summarize --block-size=1M --apparent-size "$root" | cut --fields=1) * 13 / 10 + 128))
    mke2fs -q -t ext4 -O '^has_journal,^metadata_csum' -E lazy_itable_init=1,root_owner=0:0 \
        -m 0 -d "$root" "$work/root.img" "${megabytes}M"
}

# busybox and what it takes to mount the root image.
make_initramfs() {
    local tree=$work/initramfs number=10 file
    mkdir --parents "$tree"/{bin,modules,proc,dev,sys,new}
    cp /bin/busybox "$tree/bin/"
    for module in virtio_pci virtio_blk ext4 crc32c_generic; do
        modprobe --dirname "$work/root" --set-version "$kernel" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
        while read -r file; do
            cp "$file" "$tree/modules/$number-$(basename "$file")"
            number=$((number + 1))
        done
    install --mode=755 "$guest_here/in/initrd-init" "$tree/init"
    (cd "$tree" && find . | cpio --quiet --create --format=newc --owner=0:0) >"$work/initrd.img"
}

install_host_packages
step "packages of $suite (two minutes)"
bootstrap
step "kernel"
fetch_kernel
extract_kernel
copy_modules
step "images"
make_root_image
make_initramfs
rm --recursive --force "$work"/{root,kernel,initramfs} "$work"/*.deb
rm --recursive --force "$guest_image"
mv "$work" "$guest_image"
step "built: $(du --summarize --human-readable "$guest_image" | cut --fields=1) in $guest_image"
