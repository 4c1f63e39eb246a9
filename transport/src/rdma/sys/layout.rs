//! Compares [`super::abi`] with the installed headers, if there are any.
use std::fmt::Write as _;
use std::mem::{offset_of, size_of};
use std::process::Command;

use super::super::address::{AF_IB, SOCKADDR_IB_BYTES};
use super::abi::*;

/// One fact: a C expression and the value that this crate has for it.
type Fact = (String, usize);

macro_rules! offsets {
    ($facts:ident, $struct:ident { $($field:ident $(= $c:literal)?),* $(,)? }) => {
        $(
            let c = None$(.or(Some($c)))?.unwrap_or(stringify!($field));
            $facts.push((
                format!("offsetof(struct {}, {c})", stringify!($struct)),
                offset_of!($struct, $field),
            ));
        )*
    };
}

macro_rules! sizes {
    ($facts:ident, $($struct:ident),*) => {
        $($facts.push((
            format!("sizeof(struct {})", stringify!($struct)),
            size_of::<$struct>(),
        ));)*
    };
}

macro_rules! constants {
    ($facts:ident, $($name:ident),* $(,)?) => {
        $($facts.push((stringify!($name).to_owned(), $name as usize));)*
    };
}

fn facts() -> Vec<Fact> {
    let mut facts = Vec::new();
    of_devices(&mut facts);
    of_queues(&mut facts);
    of_connections(&mut facts);
    of_constants(&mut facts);
    facts
}

fn of_devices(facts: &mut Vec<Fact>) {
    sizes!(
        facts,
        ibv_device_attr,
        ibv_pd,
        ibv_mr,
        ibv_comp_channel,
        ibv_wc,
        ibv_sge,
        ibv_send_wr,
        ibv_recv_wr,
        ibv_qp_cap,
        ibv_qp_init_attr,
        ibv_srq_init_attr,
        ibv_context_ops,
        rdma_event_channel,
        rdma_conn_param
    );
    offsets!(facts, ibv_context { device, ops, cmd_fd, async_fd, num_comp_vectors });
    offsets!(
        facts,
        ibv_context_ops { poll_cq, req_notify_cq, post_srq_recv, post_send, post_recv }
    );
    offsets!(facts, ibv_device { node_type, transport_type, name });
    offsets!(
        facts,
        ibv_device_attr {
            node_guid,
            vendor_id,
            vendor_part_id,
            hw_ver,
            max_qp_wr,
            max_sge,
            max_sge_rd,
            max_cqe,
            max_qp_rd_atom,
            max_qp_init_rd_atom,
            max_srq_wr,
            max_srq_sge,
            phys_port_cnt,
            max_mr_size
        }
    );
    offsets!(facts, ibv_mr { addr, length, lkey, rkey });
    offsets!(facts, ibv_comp_channel { fd });
}

fn of_queues(facts: &mut Vec<Fact>) {
    offsets!(facts, ibv_cq { context, channel, cqe });
    offsets!(facts, ibv_srq { context });
    offsets!(facts, ibv_qp { context, qp_num });
    offsets!(facts, ibv_wc { wr_id, status, opcode, vendor_err, byte_len, qp_num, wc_flags });
    offsets!(facts, ibv_sge { addr, length, lkey });
    offsets!(facts, ibv_send_wr {
        wr_id, next, sg_list, num_sge, opcode, send_flags, imm_data,
        remote_addr = "wr.rdma.remote_addr", rkey = "wr.rdma.rkey"
    });
    offsets!(facts, ibv_recv_wr { wr_id, next, sg_list, num_sge });
    offsets!(facts, ibv_qp_cap { max_send_wr, max_recv_wr, max_send_sge, max_recv_sge });
    offsets!(facts, ibv_qp_init_attr { send_cq, recv_cq, srq, cap, qp_type, sq_sig_all });
    offsets!(facts, ibv_srq_init_attr { max_wr = "attr.max_wr", max_sge = "attr.max_sge" });
}

fn of_connections(facts: &mut Vec<Fact>) {
    offsets!(facts, rdma_cm_id {
        verbs, channel, context, qp, src_addr = "route.addr.src_addr",
        dst_addr = "route.addr.dst_addr"
    });
    offsets!(
        facts,
        rdma_conn_param {
            private_data,
            private_data_len,
            responder_resources,
            initiator_depth,
            flow_control,
            retry_count,
            rnr_retry_count
        }
    );
    offsets!(facts, rdma_cm_event { id, listen_id, event, status, conn = "param.conn" });
}

fn of_constants(facts: &mut Vec<Fact>) {
    constants!(
        facts,
        IBV_WC_SUCCESS,
        IBV_WC_WR_FLUSH_ERR,
        IBV_WC_REM_INV_REQ_ERR,
        IBV_WC_REM_ACCESS_ERR,
        IBV_WC_REM_OP_ERR,
        IBV_WC_LOC_LEN_ERR,
        IBV_WR_RDMA_WRITE,
        IBV_WR_SEND,
        IBV_WR_RDMA_READ,
        IBV_SEND_SIGNALED,
        IBV_SEND_SOLICITED,
        IBV_ACCESS_LOCAL_WRITE,
        IBV_ACCESS_REMOTE_WRITE,
        IBV_ACCESS_REMOTE_READ,
        IBV_QPT_RC,
        RDMA_CM_EVENT_ADDR_RESOLVED,
        RDMA_CM_EVENT_ROUTE_RESOLVED,
        RDMA_CM_EVENT_CONNECT_REQUEST,
        RDMA_CM_EVENT_CONNECT_RESPONSE,
        RDMA_CM_EVENT_CONNECT_ERROR,
        RDMA_CM_EVENT_UNREACHABLE,
        RDMA_CM_EVENT_REJECTED,
        RDMA_CM_EVENT_ESTABLISHED,
        RDMA_CM_EVENT_DISCONNECTED,
        RDMA_CM_EVENT_DEVICE_REMOVAL,
        RDMA_OPTION_ID,
        RDMA_OPTION_ID_AFONLY,
        RDMA_PS_TCP,
        RDMA_PS_IB,
    );
    // What `sockaddr_ib` in `address.rs` writes by offset.
    for (field, at) in [("sib_pkey", 2), ("sib_addr", 8), ("sib_sid", 24), ("sib_sid_mask", 32)] {
        facts.push((format!("offsetof(struct sockaddr_ib, {field})"), at));
    }
    facts.push(("sizeof(struct sockaddr_ib)".to_owned(), SOCKADDR_IB_BYTES));
    facts.push(("AF_IB".to_owned(), usize::from(AF_IB)));
}

#[test]
#[ignore = "needs the headers of rdma-core and a C compiler"]
fn layouts_are_those_of_the_installed_headers() {
    let facts = facts();
    let mut program = String::from(
        "#include <stdio.h>\n#include <stddef.h>\n#include <rdma/rdma_cma.h>\n\
         #include <infiniband/ib.h>\nint main(void) {\n",
    );
    for (expression, _) in &facts {
        writeln!(program, "printf(\"%zu\\n\", (size_t)({expression}));").unwrap();
    }
    program.push_str("return 0;\n}\n");
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("layout.c");
    let binary = directory.path().join("layout");
    std::fs::write(&source, program).unwrap();
    let compiled = Command::new("cc").arg(&source).arg("-o").arg(&binary).status();
    assert!(compiled.expect("a C compiler").success(), "the headers lack what this crate names");
    let output = Command::new(&binary).output().unwrap();
    let theirs = String::from_utf8(output.stdout).unwrap();
    let theirs: Vec<usize> = theirs.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(theirs.len(), facts.len());
    let wrong: Vec<String> = facts
        .iter()
        .zip(theirs)
        .filter(|((_, ours), theirs)| ours != theirs)
        .map(|((expression, ours), theirs)| format!("{expression}: {ours}, headers say {theirs}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
