# shellcheck shell=bash
# Hostile initiators against srpt_tgt over soft-RoCE: hostile.sh TEST_BINARY.
# shellcheck source=lib.sh
. /host/guest/lib.sh
# shellcheck source=tests.sh
. /host/guest/tests.sh
rxe_up || fail "soft-RoCE"
export RDMA_TEST_ADDRESS=$ADDRESS SRPT_TEST_BINARIES=/host/bin
all_run "$1" --nocapture every_hostile_peer_over_rdma_harms_itself_only
