//! Connection identifiers and their events.
//!
//! librdmacm changes a connection's queue pair while an event is taken from its channel. Taking an
//! event and destroying a queue pair therefore exclude each other by the channel's lock.
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::address::{AF_IB, ListenAddress, SOCKADDR_IB_BYTES, sockaddr_ib};
use super::abi::*;
use super::library::{Rdma, rdma};
use super::{LibraryError, RdmaError, last};

/// A transport address in the operating system's form.
#[derive(Clone, Copy)]
pub(crate) struct Address(libc::sockaddr_storage);

impl Address {
    fn zeroed() -> Self {
        // SAFETY: all-zero is a value of this plain structure.
        Address(unsafe { std::mem::zeroed() })
    }

    fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.0).cast()
    }

    /// The internet address, unless it is of another family.
    pub(crate) fn socket(&self) -> Option<SocketAddr> {
        match i32::from(self.0.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says which structure this is, and it fits the storage.
                let v4 = unsafe { &*(&raw const self.0).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let v6 = unsafe { &*(&raw const self.0).cast::<libc::sockaddr_in6>() };
                let (ip, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
                Some(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// The GID of an address of the family IB.
    fn gid(&self) -> Option<Ipv6Addr> {
        if self.0.ss_family != AF_IB {
            return None;
        }
        // SAFETY: the storage is longer than these bytes and all of it is initialised.
        let bytes = unsafe { &*(&raw const self.0).cast::<[u8; SOCKADDR_IB_BYTES]>() };
        let gid: [u8; 16] = bytes[8..24].try_into().expect("16 bytes");
        Some(gid.into())
    }

    fn ib(gid: Ipv6Addr, port: u16) -> Self {
        let mut address = Address::zeroed();
        let bytes = sockaddr_ib(gid, port);
        // SAFETY: the storage is longer than these bytes.
        unsafe { *(&raw mut address.0).cast() = bytes };
        address
    }

    /// The same address with the port that the system chooses.
    fn without_port(mut self) -> Self {
        if let Some(mut socket) = self.socket() {
            socket.set_port(0);
            self = socket.into();
        } else if let Some(gid) = self.gid() {
            self = Address::ib(gid, 0);
        }
        self
    }

    /// The port space that identifiers of this address belong to.
    fn port_space(&self) -> i32 {
        if self.gid().is_some() { RDMA_PS_IB } else { RDMA_PS_TCP }
    }
}

impl From<ListenAddress> for Address {
    fn from(address: ListenAddress) -> Self {
        match address {
            ListenAddress::Ip(socket) => socket.into(),
            ListenAddress::Ib { gid, port } => Address::ib(gid, port),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(socket: SocketAddr) -> Self {
        let mut address = Address::zeroed();
        match socket {
            SocketAddr::V4(from) => {
                // SAFETY: the storage is large and aligned enough for every family.
                let v4 = unsafe { &mut *(&raw mut address.0).cast::<libc::sockaddr_in>() };
                v4.sin_family = libc::AF_INET as u16;
                v4.sin_port = from.port().to_be();
                v4.sin_addr.s_addr = u32::from(*from.ip()).to_be();
            }
            SocketAddr::V6(from) => {
                // SAFETY: as above.
                let v6 = unsafe { &mut *(&raw mut address.0).cast::<libc::sockaddr_in6>() };
                v6.sin6_family = libc::AF_INET6 as u16;
                v6.sin6_port = from.port().to_be();
                v6.sin6_addr.s6_addr = from.ip().octets();
                v6.sin6_scope_id = from.scope_id();
            }
        }
        address
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.socket(), self.gid()) {
            (Some(socket), _) => socket.ip().fmt(f),
            (None, Some(gid)) => gid.fmt(f),
            (None, None) => write!(f, "address of family {}", self.0.ss_family),
        }
    }
}

/// Delivers the events of its identifiers. Having one tells you that its descriptor stays open and
/// does not block.
pub(crate) struct EventChannel(Arc<ChannelInner>);

struct ChannelInner {
    channel: NonNull<rdma_event_channel>,
    library: &'static Rdma,
    events: Mutex<()>,
}

// SAFETY: a channel may be used from every thread.
unsafe impl Send for ChannelInner {}
// SAFETY: as above; `events` orders what must not overlap.
unsafe impl Sync for ChannelInner {}

impl Drop for ChannelInner {
    fn drop(&mut self) {
        // SAFETY: identifiers hold an Arc of their channel, and events are acknowledged at once.
        unsafe { (self.library.cm.rdma_destroy_event_channel)(self.channel.as_ptr()) };
    }
}

/// Why no event channel could be had.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The libraries are not installed.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The kernel has no RDMA devices or no RDMA/CM.
    #[error(
        "no RDMA on this machine ({0}): is there a device (`rdma link`), is the module rdma_ucm \
         loaded?"
    )]
    NoRdma(RdmaError),
}

/// What happened, without the library's memory.
pub(crate) struct CmEvent {
    /// `RDMA_CM_EVENT_…`.
    pub kind: i32,
    /// 0, a negative errno, or for a reject the reason that the peer's CM gave.
    pub status: i32,
    /// [`CmId::set_token`] of the identifier; of the listener for a connection request.
    pub token: u64,
    /// The new identifier of a connection request.
    pub request: Option<CmId>,
    private: [u8; 256],
    private_len: usize,
}

impl CmEvent {
    /// The peer's private data; padded with zeros to the size of the message that carried it.
    pub(crate) fn private_data(&self) -> &[u8] {
        &self.private[..self.private_len]
    }
}

impl EventChannel {
    /// A new channel.
    pub(crate) fn new() -> Result<Self, ChannelError> {
        let library = rdma()?;
        // SAFETY: no requirements.
        let channel = NonNull::new(unsafe { (library.cm.rdma_create_event_channel)() })
            .ok_or_else(|| ChannelError::NoRdma(last("rdma_create_event_channel")))?;
        let inner = ChannelInner { channel, library, events: Mutex::new(()) };
        let channel = EventChannel(Arc::new(inner));
        rustix::io::ioctl_fionbio(channel.as_fd(), true).map_err(|reason| {
            ChannelError::NoRdma(RdmaError { what: "event channel", reason: reason.into() })
        })?;
        Ok(channel)
    }

    /// The next event, if there is one.
    pub(crate) fn next(&self) -> Option<CmEvent> {
        let cm = &self.0.library.cm;
        let _guard = self.0.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut raw = ptr::null_mut();
        // SAFETY: the channel is open; the descriptor does not block.
        if unsafe { (cm.rdma_get_cm_event)(self.0.channel.as_ptr(), &mut raw) } != 0 {
            return None;
        }
        // SAFETY: a successful call returns an event that is ours until acknowledged, whose
        // identifiers exist until then.
        let event = unsafe { &*raw };
        let asks = event.event == RDMA_CM_EVENT_CONNECT_REQUEST;
        let known = if asks { event.listen_id } else { event.id };
        // SAFETY: as above.
        let token = unsafe { (*known).context } as u64;
        let mut private = [0; 256];
        let mut private_len = 0;
        if !event.conn.private_data.is_null() {
            private_len = usize::from(event.conn.private_data_len);
            // SAFETY: the library says how many bytes there are, 255 at most.
            unsafe {
                let from = event.conn.private_data.cast::<u8>();
                ptr::copy_nonoverlapping(from, private.as_mut_ptr(), private_len);
            }
        }
        let request = asks.then(|| CmId {
            inner: Arc::new(IdInner {
                id: NonNull::new(event.id).expect("a connection request has an identifier"),
                library: self.0.library,
                channel: Arc::clone(&self.0),
            }),
        });
        let (kind, status) = (event.event, event.status);
        // SAFETY: ours, acknowledged once.
        unsafe { (cm.rdma_ack_cm_event)(raw) };
        Some(CmEvent { kind, status, token, request, private, private_len })
    }

    /// A listener at an address. Its connection requests arrive here with `token`. One at an IPv6
    /// address takes no requests over IPv4, so that `::` leaves the port of `0.0.0.0` alone.
    pub(crate) fn listen(&self, address: ListenAddress, token: u64) -> Result<CmId, RdmaError> {
        let mut address = Address::from(address);
        let id = self.id_in(address.port_space(), token)?;
        if address.socket().is_some_and(|socket| socket.is_ipv6()) {
            id.take_one_family_only()?;
        }
        // SAFETY: the identifier exists; the address is one of the three structures allowed.
        let code = unsafe { (self.0.library.cm.rdma_bind_addr)(id.raw(), address.as_mut_ptr()) };
        if code != 0 {
            return Err(last("binding"));
        }
        // SAFETY: the identifier exists.
        if unsafe { (self.0.library.cm.rdma_listen)(id.raw(), 128) } != 0 {
            return Err(last("listening"));
        }
        Ok(id)
    }

    /// An identifier that belongs to no address yet, for IP addresses.
    pub(crate) fn id(&self, token: u64) -> Result<CmId, RdmaError> {
        self.id_in(RDMA_PS_TCP, token)
    }

    fn id_in(&self, port_space: i32, token: u64) -> Result<CmId, RdmaError> {
        let library = self.0.library;
        let (mut id, channel) = (ptr::null_mut(), self.0.channel.as_ptr());
        // SAFETY: the channel is open and kept; the token is only a number.
        let code =
            unsafe { (library.cm.rdma_create_id)(channel, &mut id, token as *mut _, port_space) };
        if code != 0 {
            return Err(last("rdma_create_id"));
        }
        let id = NonNull::new(id).expect("an identifier was created");
        Ok(CmId { inner: Arc::new(IdInner { id, library, channel: Arc::clone(&self.0) }) })
    }

    /// An identifier bound to a local address, and so to its device.
    pub(crate) fn bound(&self, address: &Address, token: u64) -> Result<CmId, RdmaError> {
        let mut address = address.without_port();
        let id = self.id_in(address.port_space(), token)?;
        // SAFETY: the identifier exists; the address is one that the library gave.
        let code = unsafe { (self.0.library.cm.rdma_bind_addr)(id.raw(), address.as_mut_ptr()) };
        if code == 0 { Ok(id) } else { Err(last("binding")) }
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the channel.
        unsafe { BorrowedFd::borrow_raw((*self.0.channel.as_ptr()).fd) }
    }
}

struct IdInner {
    id: NonNull<rdma_cm_id>,
    library: &'static Rdma,
    channel: Arc<ChannelInner>,
}

// SAFETY: the library's calls on one identifier are system calls; what it changes in memory is
// ordered by the channel's lock or done before the identifier is shared.
unsafe impl Send for IdInner {}
// SAFETY: as above.
unsafe impl Sync for IdInner {}

impl Drop for IdInner {
    fn drop(&mut self) {
        // SAFETY: ours; its queue pair, if any, held an Arc and is gone. Events that were taken
        // have been acknowledged.
        unsafe { (self.library.cm.rdma_destroy_id)(self.id.as_ptr()) };
    }
}

/// Keeps an identifier for its queue pair.
pub(super) struct IdGuard(Arc<IdInner>);

impl IdGuard {
    pub(super) fn raw(&self) -> *mut rdma_cm_id {
        self.0.id.as_ptr()
    }

    pub(super) fn library(&self) -> &'static Rdma {
        self.0.library
    }

    pub(super) fn destroy_qp(&self) {
        let _guard = self.0.channel.events.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the identifier exists and has a queue pair; no event is being taken.
        unsafe { (self.0.library.cm.rdma_destroy_qp)(self.raw()) };
    }
}

/// A connection identifier: a listener or one end of a connection. Having one tells you that it
/// exists; dropping a request that was not answered rejects it.
pub(crate) struct CmId {
    inner: Arc<IdInner>,
}

impl CmId {
    fn raw(&self) -> *mut rdma_cm_id {
        self.inner.id.as_ptr()
    }

    /// Sets the number that its events carry. Before the first event, by the thread that takes
    /// events.
    pub(crate) fn set_token(&mut self, token: u64) {
        // SAFETY: the field is the user's.
        unsafe { (*self.raw()).context = token as *mut _ };
    }

    /// Before binding: no requests of another address family.
    fn take_one_family_only(&self) -> Result<(), RdmaError> {
        let mut yes: libc::c_int = 1;
        let (level, name) = (RDMA_OPTION_ID, RDMA_OPTION_ID_AFONLY);
        // SAFETY: the identifier exists; the option is an int, which lives through the call.
        let code = unsafe {
            (self.inner.library.cm.rdma_set_option)(
                self.raw(),
                level,
                name,
                (&raw mut yes).cast(),
                size_of::<libc::c_int>(),
            )
        };
        if code == 0 { Ok(()) } else { Err(last("taking one address family only")) }
    }

    pub(super) fn verbs(&self) -> Option<NonNull<ibv_context>> {
        // SAFETY: the identifier exists.
        NonNull::new(unsafe { (*self.raw()).verbs })
    }

    /// This end's address.
    pub(crate) fn local_address(&self) -> Address {
        // SAFETY: the identifier exists.
        Address(unsafe { (*self.raw()).src_addr })
    }

    /// The other end's address.
    pub(crate) fn peer_address(&self) -> Address {
        // SAFETY: the identifier exists.
        Address(unsafe { (*self.raw()).dst_addr })
    }

    /// Finds route and device to `peer`, from `local` if given; `RDMA_CM_EVENT_ADDR_RESOLVED`
    /// follows.
    pub(crate) fn resolve_address(
        &self,
        local: Option<SocketAddr>,
        peer: SocketAddr,
        timeout_ms: i32,
    ) -> Result<(), RdmaError> {
        let mut local = local.map(Address::from);
        let mut peer = Address::from(peer);
        let source = local.as_mut().map_or(ptr::null_mut(), Address::as_mut_ptr);
        // SAFETY: the identifier exists; both addresses live through the call.
        let code = unsafe {
            (self.inner.library.cm.rdma_resolve_addr)(
                self.raw(),
                source,
                peer.as_mut_ptr(),
                timeout_ms,
            )
        };
        if code == 0 { Ok(()) } else { Err(last("resolving the address")) }
    }

    /// Finds the path; `RDMA_CM_EVENT_ROUTE_RESOLVED` follows.
    pub(crate) fn resolve_route(&self, timeout_ms: i32) -> Result<(), RdmaError> {
        // SAFETY: the identifier exists.
        let code = unsafe { (self.inner.library.cm.rdma_resolve_route)(self.raw(), timeout_ms) };
        if code == 0 { Ok(()) } else { Err(last("resolving the route")) }
    }

    /// Keeps the identifier for its queue pair.
    pub(super) fn guard(&self) -> IdGuard {
        IdGuard(Arc::clone(&self.inner))
    }

    /// Connects with private data; `RDMA_CM_EVENT_ESTABLISHED` or an error follows.
    pub(crate) fn connect(
        &self,
        private: &[u8],
        reads_in: u8,
        reads_out: u8,
    ) -> Result<(), RdmaError> {
        self.connect_as(0, private, reads_in, reads_out)
    }

    /// As [`CmId::connect`], for an identifier without a queue pair: the peer is told that it has
    /// the one with the number `qp`. `RDMA_CM_EVENT_CONNECT_RESPONSE` or an error follows, and the
    /// connection is never established. Of two connections to a port that claim one queue pair the
    /// CM refuses the second.
    pub(crate) fn connect_as(
        &self,
        qp: u32,
        private: &[u8],
        reads_in: u8,
        reads_out: u8,
    ) -> Result<(), RdmaError> {
        let mut param = parameters(private, reads_in, reads_out);
        param.qp_num = qp;
        // SAFETY: the identifier exists; `param` lives through the call.
        let code = unsafe { (self.inner.library.cm.rdma_connect)(self.raw(), &mut param) };
        if code == 0 { Ok(()) } else { Err(last("rdma_connect")) }
    }

    /// Accepts a request with private data; its queue pair is ready for use when this returns.
    /// `RDMA_CM_EVENT_ESTABLISHED` or an error follows.
    pub(crate) fn accept(
        &self,
        private: &[u8],
        reads_in: u8,
        reads_out: u8,
    ) -> Result<(), RdmaError> {
        let mut param = parameters(private, reads_in, reads_out);
        // SAFETY: as in `connect`.
        let code = unsafe { (self.inner.library.cm.rdma_accept)(self.raw(), &mut param) };
        if code == 0 { Ok(()) } else { Err(last("rdma_accept")) }
    }

    /// Rejects a request with private data.
    pub(crate) fn reject(&self, private: &[u8]) -> Result<(), RdmaError> {
        let len = u8::try_from(private.len()).expect("private data of at most 148 bytes");
        // SAFETY: the identifier exists; the bytes live through the call.
        let code = unsafe {
            (self.inner.library.cm.rdma_reject)(self.raw(), private.as_ptr().cast(), len)
        };
        if code == 0 { Ok(()) } else { Err(last("rdma_reject")) }
    }

    /// Moves the queue pair to its error state and tells the peer. Only while the queue pair
    /// exists.
    pub(crate) fn disconnect(&self) -> Result<(), RdmaError> {
        // SAFETY: the identifier exists.
        let code = unsafe { (self.inner.library.cm.rdma_disconnect)(self.raw()) };
        if code == 0 { Ok(()) } else { Err(last("rdma_disconnect")) }
    }
}

/// ib_srpt's parameters: at most 4 READs each way, unbounded retries when a receive is missing.
fn parameters(private: &[u8], reads_in: u8, reads_out: u8) -> rdma_conn_param {
    rdma_conn_param {
        private_data: private.as_ptr().cast(),
        private_data_len: u8::try_from(private.len()).expect("private data of at most 196 bytes"),
        responder_resources: reads_in.min(4),
        initiator_depth: reads_out.min(4),
        flow_control: 1,
        retry_count: 7,
        rnr_retry_count: 7,
        srq: 0,
        qp_num: 0,
    }
}

/// Lets the library close the devices that have gone.
pub(crate) fn forget_dead_devices() {
    let Ok(library) = rdma() else { return };
    // SAFETY: the list is the library's own and is given back at once.
    unsafe {
        let devices = (library.cm.rdma_get_devices)(ptr::null_mut());
        if !devices.is_null() {
            (library.cm.rdma_free_devices)(devices);
        }
    }
}
