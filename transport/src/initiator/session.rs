//! Login: from a [`Connector`] to [`Channel`]s that are ready for commands.

use std::time::Duration;

use super::{Agreed, Channel, ConnectError, Connector};
use crate::srp::{
    BUF_FMT_DIRECT, BUF_FMT_INDIRECT, LoginForm, LoginRej, LoginReq, LoginRsp, Malformed,
    Multichannel, PortId, REQ_IT_IU_LEN_MIN, RejectReason,
};

/// Where the Linux initiator puts immediate data: behind the command (48), 16 bytes of additional
/// CDB and the descriptor (4).
const IMM_DATA_OFFSET: u16 = 68;

/// What the Linux initiator asks for with immediate data of at most 8 KiB.
const REQ_IT_IU_LEN: u32 = IMM_DATA_OFFSET as u32 + 8192;

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginOptions {
    /// The initiator port.
    pub initiator_port_id: PortId,
    /// The target port: the service GUID twice.
    pub target_port_id: PortId,
    /// Layout of the request.
    pub form: LoginForm,
    /// Largest IU to send, in bytes.
    pub req_it_iu_len: u32,
    /// Where immediate data begins, if it is wanted.
    pub imm_data_offset: Option<u16>,
    /// What becomes of the other channels of the same ports. [`Session::login`] sets it.
    pub multichannel: Multichannel,
    /// Solicited-event bits of [`LoginReq`]: `FLAG_LOGOUT_SOLICITED` and its like.
    pub flags: u8,
    /// Commands in flight on a channel, at most; the credits may allow fewer.
    pub queue_size: usize,
    /// Credits that commands leave for task management.
    pub credits_reserved: u32,
    /// How long to wait for the answer.
    pub timeout: Duration,
}

impl LoginOptions {
    /// What the Linux initiator asks for: immediate data of at most 8 KiB, one credit kept for task
    /// management. Up to 1024 commands in flight, five seconds of patience.
    pub fn new(initiator_port_id: PortId, target_port_id: PortId) -> Self {
        LoginOptions {
            initiator_port_id,
            target_port_id,
            form: LoginForm::Ib,
            req_it_iu_len: REQ_IT_IU_LEN,
            imm_data_offset: Some(IMM_DATA_OFFSET),
            multichannel: Multichannel::Single,
            flags: 0,
            queue_size: 1024,
            credits_reserved: 1,
            timeout: Duration::from_secs(5),
        }
    }

    fn request(&self) -> LoginReq {
        let mut req_flags = self.flags;
        if self.multichannel == Multichannel::Multi {
            req_flags |= LoginReq::FLAG_MULTI;
        }
        if self.imm_data_offset.is_some() {
            req_flags |= LoginReq::FLAG_IMMEDIATE_DATA;
        }
        LoginReq {
            form: self.form,
            tag: [0; 8],
            req_it_iu_len: self.req_it_iu_len,
            req_buf_fmt: BUF_FMT_DIRECT | BUF_FMT_INDIRECT,
            req_flags,
            imm_data_offset: self.imm_data_offset.unwrap_or(0),
            initiator_port_id: self.initiator_port_id,
            target_port_id: self.target_port_id,
        }
    }

    fn agree(&self, rsp: &LoginRsp) -> Result<Agreed, LoginError> {
        let it_bytes_max = rsp.max_it_iu_len.min(self.req_it_iu_len);
        if it_bytes_max < REQ_IT_IU_LEN_MIN {
            return Err(LoginError::IuTooSmall(it_bytes_max));
        }
        let imm_data_offset = self.imm_data_offset.filter(|_| rsp.immediate_data).map(u32::from);
        Ok(Agreed {
            req_lim: rsp.req_lim_delta,
            it_bytes_max,
            ti_bytes_max: rsp.max_ti_iu_len,
            imm_data_offset,
        })
    }
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The target refused.
    #[error("the target rejected the login: {0}")]
    Rejected(RejectReason),
    /// The target's answer can't be understood.
    #[error("the target's answer to the login: {0}")]
    Malformed(#[from] Malformed),
    /// The target takes no information units of the smallest size.
    #[error("the target takes information units of only {0} bytes")]
    IuTooSmall(u32),
    /// No connection.
    #[error(transparent)]
    Connect(ConnectError),
}

/// Opens one channel. The memory must outlive it on the target's side, too: drop it last.
pub fn login<C: Connector>(
    connector: &C,
    memory: &C::Memory,
    options: &LoginOptions,
) -> Result<Channel<C::Link>, LoginError> {
    let mut request = [0; LoginReq::LEN_IB];
    let len = options.request().emit(&mut request);
    let (link, answer) = match connector.connect(&request[..len], memory, options.timeout) {
        Ok(connected) => connected,
        Err(ConnectError::Rejected(bytes)) => {
            return Err(LoginError::Rejected(LoginRej::parse(&bytes)?.reason));
        }
        Err(error) => return Err(LoginError::Connect(error)),
    };
    let agreed = options.agree(&LoginRsp::parse(&answer)?)?;
    Ok(Channel::new(link, agreed, options.queue_size, options.credits_reserved))
}

/// An I_T nexus: the channels between two ports and the data memory they share.
pub struct Session<C: Connector> {
    /// The channels, at least one. Free to be moved out to several threads.
    pub channels: Vec<Channel<C::Link>>,
    /// The data memory.
    pub memory: C::Memory,
}

impl<C: Connector> Session<C> {
    /// Opens `channels` channels, at least one, and `memory_bytes` of data memory. The first login
    /// ends what was left of an earlier session of the same ports; if a later one fails, so does
    /// the whole.
    pub fn login(
        connector: &C,
        options: &LoginOptions,
        channels: usize,
        memory_bytes: usize,
    ) -> Result<Self, LoginError> {
        let memory = connector.memory(memory_bytes).map_err(LoginError::Connect)?;
        let mut options = options.clone();
        options.multichannel = Multichannel::Single;
        let mut opened = vec![login(connector, &memory, &options)?];
        options.multichannel = Multichannel::Multi;
        for _ in 1..channels {
            opened.push(login(connector, &memory, &options)?);
        }
        Ok(Session { channels: opened, memory })
    }
}

#[cfg(test)]
mod tests;
