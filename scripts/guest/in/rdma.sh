# shellcheck shell=bash
# Runs all tests of a binary over soft-RoCE: rdma.sh BINARY [argument]...
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=tests.sh
. /host/guest/tests.sh
rxe_up || fail "soft-RoCE"
export RDMA_TEST_ADDRESS=$ADDRESS RDMA_TEST_ADDRESS6=$ADDRESS6
all_run "$@" && grep --quiet '; 0 filtered out' /tmp/tests || fail "tests failed or were left out"
