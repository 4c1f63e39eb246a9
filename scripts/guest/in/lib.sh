# shellcheck shell=bash
# Functions for jobs in the guest: soft-RoCE, the kernel's initiator, the kernel's own target.
# Source it with `. /host/guest/lib.sh`. The capitals are parameters.
NETDEV=${NETDEV:-rdma0}                 # made as a dummy device unless it exists
ADDRESS=${ADDRESS:-192.168.77.1}        # of NETDEV
ADDRESS6=${ADDRESS6:-fd77::1}
RXE=${RXE:-rxe0}                        # RDMA device on NETDEV
PORT=${PORT:-5555}                      # RDMA/CM port of the target
TARGET_ADDRESS=${TARGET_ADDRESS:-}      # unless it is ADDRESS too
configfs=/sys/kernel/config

uptime_s() { cut --delimiter=' ' --fields=1 /proc/uptime; }
say() { echo "[$(uptime_s)] $*"; }
fail() { say "FAILED: $*"; exit 1; }

# Hundredths of a second since the boot, in `clock_cs`. Starts no process.
read_clock() {
    read -r clock_cs _ </proc/uptime
    clock_cs=$((10#${clock_cs/./}))
}
# Waits up to SECONDS until COMMAND succeeds: until_true SECONDS COMMAND... Tries may take long: it is
# the time that counts, not their number.
until_true() {
    local clock_cs limit_cs
    read_clock
    limit_cs=$((clock_cs + $1 * 100))
    shift
    until "$@"; do
        read_clock
        [ $clock_cs -lt $limit_cs ] || return 1
        sleep 0.05
    done
}

rxe_up() {
    modprobe --all dummy virtio_net rdma_rxe ib_uverbs ib_umad rdma_ucm || return 1
    # A fixed address: the GUIDs come from it.
    [ -e "/sys/class/net/$NETDEV" ] ||
        ip link add "$NETDEV" address 02:00:00:00:77:01 type dummy || return 1
    ip link set "$NETDEV" mtu 9000 up
    ip address add "$ADDRESS/24" dev "$NETDEV"
    ip address add "$ADDRESS6/64" dev "$NETDEV" nodad
    rdma link add "$RXE" type rxe netdev "$NETDEV" || return 1
    until_true 5 grep --quiet ACTIVE "/sys/class/infiniband/$RXE/ports/1/state"
}
rxe_down() { rdma link delete "$RXE"; }

# The port's GID as 32 digits; its last half is what the kernel's initiator calls itself.
gid() { tr --delete ':\n' <"/sys/class/infiniband/$RXE/ports/1/gids/0"; }

# --- initiator: the kernel's ib_srp ---

initiator_up() {    # module options of ib_srp
    modprobe --all scsi_transport_srp sd_mod sg && modprobe ib_srp "$@"
}
srp_login() {       # GUID [option,option...]: 16 digits that are both id_ext and ioc_guid
    local extension error tries=50
    extension=$(gid)
    while ! error=$( { echo "id_ext=$1,ioc_guid=$1,initiator_ext=${INITIATOR_EXT:-${extension:0:16}},src=$ADDRESS,dest=${TARGET_ADDRESS:-$ADDRESS}:$PORT${2:+,$2}" \
        >"/sys/class/infiniband_srp/srp-$RXE-1/add_target"; } 2>&1); do
        # The initiator forgets a host a little after the host is gone.
        case $error in
            *"File exists"*) [ $((tries -= 1)) -gt 0 ] && sleep 0.1 && continue ;;
        esac
        echo "$error" >&2
        return 1
    done
}
srp_logout() {
    local port
    for port in /sys/class/srp_remote_ports/*; do
        [ -e "$port" ] && echo 1 >"$port/delete"
    done
    until_true 10 no_srp_hosts
}
no_srp_hosts() { [ -z "$(ls /sys/class/srp_host 2>/dev/null)" ]; }
srp_disks() { ls --directory /sys/class/srp_host/*/device/target*/*/block/* 2>/dev/null; }
has_disks() { [ "$(srp_disks | wc --lines)" -ge "$1" ]; }
wait_disks() { until_true 20 has_disks "$1"; }
srp_disk() { srp_node "$1" block; }             # LUN -> sda
srp_sg() { srp_node "$1" scsi_generic; }        # LUN -> sg0
srp_node() {
    local node
    for node in /sys/class/srp_host/*/device/target*/*:"$1"/"$2"/*; do
        [ -e "$node" ] && basename "$node" && return
    done
}

# A host that waits for a lost target as a user with one path would: tries every second for ten
# minutes, and holds I/O back meanwhile instead of failing it.
wait_for_target() {
    local port
    for port in /sys/class/srp_remote_ports/*; do
        echo off >"$port/fast_io_fail_tmo" && echo 600 >"$port/dev_loss_tmo" &&
            echo 1 >"$port/reconnect_delay" || return 1
    done
}

# --- the kernel's own target, ib_srpt: never beside ours on the same port ---

configfs_up() {
    modprobe configfs
    mountpoint --quiet $configfs || mount -t configfs none $configfs
}
null_block() {      # NAME MEGABYTES MEMORY_BACKED(0|1)
    modprobe null_blk nr_devices=0
    configfs_up
    mkdir "$configfs/nullb/$1" || return 1
    (
        cd "$configfs/nullb/$1" || exit
        echo 0 >completion_nsec
        echo 0 >irqmode
        echo 512 >blocksize
        echo "$2" >size
        echo "$3" >memory_backed
        echo 1 >power
    )
}
kernel_target_up() { # module options of ib_srpt
    configfs_up
    # Without this directory PERSISTENT RESERVE OUT does its work and then fails.
    mkdir --parents /etc/target/pr /var/target/pr
    modprobe --all target_core_mod target_core_iblock target_core_file || return 1
    modprobe ib_srpt "$@" || return 1
    local port srpt=$configfs/target/srpt id
    mkdir --parents $srpt
    echo "$PORT" >$srpt/discovery_auth/rdma_cm_port
    id=$(gid)
    port=$srpt/${id:16:4}:${id:20:4}:${id:24:4}:${id:28:4}
    kernel_tpg=$port/$(basename "$port")
    mkdir "$port" && mkdir "$kernel_tpg"
}
kernel_guid() { cat /sys/module/ib_srpt/parameters/srpt_service_guid; }
kernel_backend() {  # HBA/NAME CONTROL SERIAL
    local device=$configfs/target/core/$1
    mkdir --parents "$device" || return 1
    echo "$2" >"$device/control" || return 1
    echo "$3" >"$device/wwn/vpd_unit_serial"
    echo 1 >"$device/enable"
}
kernel_lun() {      # NUMBER HBA/NAME
    mkdir "$kernel_tpg/lun/lun_$1" && ln --symbolic "$configfs/target/core/$2" "$kernel_tpg/lun/lun_$1/x"
}
kernel_target_enable() { # it serves only initiators that have an ACL
    local acl=$kernel_tpg/acls/$ADDRESS lun
    mkdir "$acl" || return 1
    for lun in "$kernel_tpg"/lun/lun_*; do
        mkdir "$acl/${lun##*/}" && ln --symbolic "$lun" "$acl/${lun##*/}/x" || return 1
    done
    echo 1 >"$kernel_tpg/enable"
}
