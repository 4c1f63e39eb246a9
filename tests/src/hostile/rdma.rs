//! A queue pair that is used against the rules.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use transport::initiator::{ConnectError, Connector, DataMemory, Link};
use transport::rdma::{RdmaConnector, RdmaHalfOpen, RdmaLink, RdmaMemory};
use transport::srp::{LoginRej, LoginRsp, Seg};

use super::peer::{DATA_BYTES, Refused};

/// For a login or a disconnect in a guest that is emulated.
const WAIT: Duration = Duration::from_secs(20);

/// From here on there is no queue pair of any device.
const HALF_OPEN_QP: u32 = 0x80_0000;

/// A device that leads to a listener, with memory registered.
pub struct RdmaPort {
    connector: RdmaConnector,
    memory: RdmaMemory,
    address: SocketAddr,
    guid: u64,
}

impl RdmaPort {
    /// Towards the listener of a target with this service GUID. Panics without RDMA.
    pub fn new(address: SocketAddr, guid: u64) -> RdmaPort {
        let connector = RdmaConnector::new(address, WAIT).expect("a device that leads there");
        let memory = connector.memory(DATA_BYTES).expect("memory for a peer");
        RdmaPort { connector, memory, address, guid }
    }

    /// The target's port: its GUID twice.
    pub fn target_port(&self) -> [u8; 16] {
        (u128::from(self.guid) << 64 | u128::from(self.guid)).to_be_bytes()
    }

    /// A login with these bytes that is granted, and never established. `number` is one that no
    /// other login of the process has had.
    pub fn half_open(&self, request: &[u8], number: u32) -> RdmaHalfOpen {
        let qp = HALF_OPEN_QP + number;
        self.connector.connect_half(request, qp, WAIT).expect("a login")
    }

    /// A range of the memory, or of what lies around it.
    pub fn seg(&self, at: usize, len: u32) -> Seg {
        let all = self.memory.seg(0, 0);
        Seg { addr: all.addr.wrapping_add(at as u64), len, ..all }
    }
}

impl fmt::Debug for RdmaPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RdmaPort({self})")
    }
}

impl fmt::Display for RdmaPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.address, self.guid)
    }
}

/// One connection.
pub struct RdmaWire {
    link: RdmaLink,
    port: Rc<RdmaPort>,
    arrived: VecDeque<Vec<u8>>,
    gone: bool,
}

impl RdmaWire {
    /// Connects with these bytes as the login.
    pub(super) fn login(
        port: &Rc<RdmaPort>,
        request: &[u8],
    ) -> Result<(RdmaWire, LoginRsp), Refused> {
        match port.connector.connect(request, &port.memory, WAIT) {
            Ok((link, answer)) => {
                let agreed = LoginRsp::parse(&answer).expect("a login response");
                let (port, arrived) = (Rc::clone(port), VecDeque::new());
                Ok((RdmaWire { link, port, arrived, gone: false }, agreed))
            }
            Err(ConnectError::Rejected(bytes)) => {
                Err(Refused::Rejected(LoginRej::parse(&bytes).expect("a reject").reason))
            }
            Err(ConnectError::Failed { reason, .. }) => Err(Refused::Error(reason)),
        }
    }

    pub(super) fn send(&mut self, unit: &[u8]) {
        self.look_around();
        // A target may close the connection at any unit before.
        let sent = self.link.send(unit).and_then(|()| self.link.flush());
        self.gone |= sent.is_err();
    }

    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        self.look_around();
        self.arrived.pop_front()
    }

    pub(super) fn ended(&mut self) -> bool {
        self.look_around();
        self.gone
    }

    pub(super) fn put(&self, at: usize, bytes: &[u8]) {
        self.port.memory.write_at(at, bytes);
    }

    pub(super) fn look(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.port.memory.read_at(at, &mut bytes);
        bytes
    }

    /// From now on no receive is posted again.
    pub fn go_deaf(&mut self) {
        self.link.stop_receiving();
    }

    fn look_around(&mut self) {
        let arrived = &mut self.arrived;
        self.gone |= self.link.poll(&mut |unit| arrived.push_back(unit.to_vec())).is_err();
    }
}
