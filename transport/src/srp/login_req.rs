//! SRP_LOGIN_REQ, the private data of a connection request (SRP 16A, 6.2).
//!
//! Two forms carry the same values. RDMA/CM leaves 56 of the 92 bytes of an InfiniBand connection
//! request, so there the fields are re-ordered; the length of the private data tells which it is.

use super::{Malformed, Opcode, PortId, Tag, be16, be32, field, put};

/// Which of the two layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoginForm {
    /// InfiniBand connection manager: 64 bytes.
    #[default]
    Ib,
    /// RDMA/CM: 56 bytes.
    RdmaCm,
}

/// What is to become of the other channels of the same I_T nexus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Multichannel {
    /// Terminate them.
    Single,
    /// Keep them.
    Multi,
}

/// A login request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginReq {
    /// The layout it arrived in, or is to be sent in.
    pub form: LoginForm,
    /// Echoed in the answer.
    pub tag: Tag,
    /// Largest IU, in bytes, that the initiator wants to send. Not checked here; at least
    /// [`super::REQ_IT_IU_LEN_MIN`] in a login that may succeed.
    pub req_it_iu_len: u32,
    /// Descriptor formats the initiator uses: [`super::BUF_FMT_DIRECT`],
    /// [`super::BUF_FMT_INDIRECT`].
    pub req_buf_fmt: u16,
    /// The `FLAG_` bits and the multichannel action.
    pub req_flags: u8,
    /// Where immediate data begins in an IU, in bytes. Valid with
    /// [`LoginReq::FLAG_IMMEDIATE_DATA`]; see [`LoginReq::immediate_data`].
    pub imm_data_offset: u16,
    /// The initiator port.
    pub initiator_port_id: PortId,
    /// The target port.
    pub target_port_id: PortId,
}

/// Field positions of one form.
struct Layout {
    opcode: usize,
    tag: usize,
    req_it_iu_len: usize,
    req_buf_fmt: usize,
    req_flags: usize,
    imm_data_offset: usize,
    initiator_port_id: usize,
    target_port_id: usize,
}

const IB: Layout = Layout {
    opcode: 0,
    tag: 8,
    req_it_iu_len: 16,
    req_buf_fmt: 24,
    req_flags: 26,
    imm_data_offset: 28,
    initiator_port_id: 32,
    target_port_id: 48,
};

const RDMA_CM: Layout = Layout {
    opcode: 11,
    tag: 0,
    req_it_iu_len: 12,
    req_buf_fmt: 8,
    req_flags: 10,
    imm_data_offset: 48,
    initiator_port_id: 16,
    target_port_id: 32,
};

const MULTICHANNEL_MASK: u8 = 0x03;

impl LoginReq {
    /// Bytes of the InfiniBand form.
    pub const LEN_IB: usize = 64;
    /// Bytes of the RDMA/CM form.
    pub const LEN_RDMA_CM: usize = 56;

    /// Multichannel action of `req_flags`: keep the other channels.
    pub const FLAG_MULTI: u8 = 0x01;
    /// The target's logout is to raise a solicited event.
    pub const FLAG_LOGOUT_SOLICITED: u8 = 0x10;
    /// The target's credit requests are to raise a solicited event.
    pub const FLAG_CRED_REQ_SOLICITED: u8 = 0x20;
    /// The target's asynchronous events are to raise a solicited event.
    pub const FLAG_AER_SOLICITED: u8 = 0x40;
    /// Immediate data is asked for.
    pub const FLAG_IMMEDIATE_DATA: u8 = 0x80;

    /// Parses private data: from 64 bytes on the InfiniBand form (a connection manager may pad
    /// it), from 56 to 63 bytes the RDMA/CM form.
    pub fn parse(data: &[u8]) -> Result<Self, Malformed> {
        let (form, layout) = match data.len() {
            Self::LEN_IB.. => (LoginForm::Ib, &IB),
            Self::LEN_RDMA_CM.. => (LoginForm::RdmaCm, &RDMA_CM),
            0 => return Err(Malformed::Empty),
            len => return Err(Malformed::TooShort { opcode: Opcode::LoginReq, len }),
        };
        let byte = data[layout.opcode];
        if byte != Opcode::LoginReq as u8 {
            return Err(match Opcode::from_byte(byte) {
                Some(found) => Malformed::Unexpected { wanted: Opcode::LoginReq, found },
                None => Malformed::UnknownOpcode { byte },
            });
        }
        Ok(LoginReq {
            form,
            tag: field(data, layout.tag),
            req_it_iu_len: be32(data, layout.req_it_iu_len),
            req_buf_fmt: be16(data, layout.req_buf_fmt),
            req_flags: data[layout.req_flags],
            imm_data_offset: be16(data, layout.imm_data_offset),
            initiator_port_id: field(data, layout.initiator_port_id),
            target_port_id: field(data, layout.target_port_id),
        })
    }

    /// Writes the IU in its form and returns its bytes, 64 or 56.
    pub fn emit(&self, to: &mut [u8]) -> usize {
        let (len, layout) = match self.form {
            LoginForm::Ib => (Self::LEN_IB, &IB),
            LoginForm::RdmaCm => (Self::LEN_RDMA_CM, &RDMA_CM),
        };
        let to = &mut to[..len];
        to.fill(0);
        to[layout.opcode] = Opcode::LoginReq as u8;
        put(to, layout.tag, &self.tag);
        put(to, layout.req_it_iu_len, &self.req_it_iu_len.to_be_bytes());
        put(to, layout.req_buf_fmt, &self.req_buf_fmt.to_be_bytes());
        to[layout.req_flags] = self.req_flags;
        put(to, layout.imm_data_offset, &self.imm_data_offset.to_be_bytes());
        put(to, layout.initiator_port_id, &self.initiator_port_id);
        put(to, layout.target_port_id, &self.target_port_id);
        len
    }

    /// The multichannel action. Undefined values keep the other channels, as the kernel targets do.
    pub fn multichannel(&self) -> Multichannel {
        match self.req_flags & MULTICHANNEL_MASK {
            0 => Multichannel::Single,
            _ => Multichannel::Multi,
        }
    }

    /// The offset of immediate data, in bytes, if the initiator asks for immediate data.
    pub fn immediate_data(&self) -> Option<u16> {
        (self.req_flags & Self::FLAG_IMMEDIATE_DATA != 0).then_some(self.imm_data_offset)
    }
}
