# shellcheck shell=bash
# What build.sh and run.sh share. Sourced.
guest_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
guest_cache=${XDG_CACHE_HOME:-$HOME/.cache}/srpt_tgt

# Everything that decides what is in the image; the rest of in/ is shared at run time.
guest_recipe() {
    local file
    for file in build.sh packages.list modules.list in/init in/initrd-init; do
        cat "$guest_here/$file"
    done
}
# shellcheck disable=SC2034
guest_image=$guest_cache/guest-$(guest_recipe | sha256sum | cut --characters=1-12)

die() {
    echo "${0##*/}: $*" >&2
    exit 125
}
