# shellcheck shell=bash
# A cargo home and a PATH that know nothing of what was done on this machine before. Sourced by
# test.sh in the checkout's folder.
#
# clean_home FOLDER: FOLDER becomes the cargo home, kept from run to run of this checkout. Of the real
# cargo home it takes the configuration, and nothing else: no crate, no credentials, no tool. PATH
# then has the folders of the distribution, and the compiler's own programs from wherever they were.
clean_home() {
    local real=${CARGO_HOME:-$HOME/.cargo} name found
    # A script inside a script that has done so already.
    [ "$real" != "$1" ] || return 0
    mkdir -p "$1/bin"
    rm -f "$1"/config "$1"/config.toml "$1"/bin/*
    for name in config config.toml; do
        [ ! -f "$real/$name" ] || cp "$real/$name" "$1/$name"
    done
    for name in cargo cargo-clippy cargo-fmt clippy-driver rustc rustdoc rustfmt rustup; do
        found=$(PATH="$real/bin:$PATH" command -v "$name") || continue
        # Those that rustup makes are links to rustup, which looks at the name that it is called by.
        ln -s "$found" "$1/bin/$name"
    done
    export CARGO_HOME=$1 PATH="$1/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}
