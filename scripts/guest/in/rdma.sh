# shellcheck shell=bash
# Runs test binaries over soft-RoCE: rdma.sh BINARY [argument]...
# shellcheck source=lib.sh
. /host/guest/lib.sh
rxe_up || fail "soft-RoCE"
export RDMA_TEST_ADDRESS=$ADDRESS RDMA_TEST_ADDRESS6=$ADDRESS6
"$@"
