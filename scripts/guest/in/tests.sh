# shellcheck shell=bash
# Test binaries in the guest. Sourced.

# all_run BINARY [argument]..: runs its tests, those that are ignored elsewhere, too. Fails when a test
# fails, when one of those that were asked for was not run, and when there was none.
all_run() {
    "$@" --include-ignored 2>&1 | tee /tmp/tests
    [ "${PIPESTATUS[0]}" = 0 ] &&
        grep --quiet '^test result: ok\. [1-9][0-9]* passed; 0 failed; 0 ignored;' /tmp/tests
}
