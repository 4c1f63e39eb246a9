//! Logins (SRP 16A, 6.2): what a core can check alone, and what is agreed on.

use transport::PeerInfo;
use transport::srp::{
    BUF_FMT_DIRECT, BUF_FMT_INDIRECT, Cmd, LoginRej, LoginReq, LoginRsp, OtherChannels,
    REQ_IT_IU_LEN_MIN, RejectReason,
};

use super::connection::Agreed;
use crate::limits::Limits;
use crate::shard::names::SrpTag;
use crate::shard::names::TargetSpec;

/// Immediate data begins behind the shortest command and the length of its data, 4 bytes, which
/// stands in place of a descriptor.
const IMM_DATA_OFFSET_MIN: u16 = Cmd::LEN_MIN as u16 + 4;

const BUF_FMT: u16 = BUF_FMT_DIRECT | BUF_FMT_INDIRECT;

/// Whether the information units that a login asks for are too long or too short.
pub(crate) fn check_sizes(login: &LoginReq, limits: &Limits) -> Result<(), RejectReason> {
    let fits = (REQ_IT_IU_LEN_MIN..=limits.iu_bytes_max).contains(&login.req_it_iu_len);
    if fits { Ok(()) } else { Err(RejectReason::ItIuTooLarge) }
}

/// Whether a login names the target of the listener that it came through.
pub(crate) fn check_port(
    login: &LoginReq,
    peer: &PeerInfo,
    target: &TargetSpec,
) -> Result<(), RejectReason> {
    let guid = target.service_guid.to_be_bytes();
    let (first, second) = login.target_port_id.split_at(8);
    // A listener on this host belongs to one target, so its initiators need not know the GUID.
    let any = peer.trtype == "shm" && login.target_port_id == [0; 16];
    if any || (first == guid && second == guid) {
        return Ok(());
    }
    Err(RejectReason::UnableToAssociate)
}

/// What a login agrees on.
pub(crate) fn agree(login: &LoginReq, limits: &Limits) -> Agreed {
    let offset = login.immediate_data().filter(|offset| {
        (IMM_DATA_OFFSET_MIN..).contains(offset) && u32::from(*offset) < limits.iu_bytes_max
    });
    Agreed {
        credits: limits.credits,
        iu_bytes_max: limits.iu_bytes_max,
        ti_bytes_max: limits.rsp_bytes_max,
        imm_data_offset: offset.map(u32::from),
    }
}

/// The response that grants a login.
pub(crate) fn granted(
    tag: SrpTag,
    agreed: &Agreed,
    other_channels: OtherChannels,
) -> [u8; LoginRsp::LEN] {
    let mut bytes = [0; LoginRsp::LEN];
    LoginRsp {
        tag,
        req_lim_delta: agreed.credits as i32,
        max_it_iu_len: agreed.iu_bytes_max,
        max_ti_iu_len: agreed.ti_bytes_max,
        buf_fmt: BUF_FMT,
        other_channels,
        immediate_data: agreed.imm_data_offset.is_some(),
    }
    .emit(&mut bytes);
    bytes
}

/// The response that refuses a login.
pub(crate) fn rejected(tag: SrpTag, reason: RejectReason) -> [u8; LoginRej::LEN] {
    let mut bytes = [0; LoginRej::LEN];
    LoginRej { tag, reason, buf_fmt: BUF_FMT }.emit(&mut bytes);
    bytes
}
