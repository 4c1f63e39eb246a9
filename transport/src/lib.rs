//! The SCSI RDMA Protocol over a fabric.
//!
//! [`srp`] is the wire format, pure. A [`Fabric`] carries information units and moves data: one
//! value per core, holding that core's connections. `initiator` is the mirror image, for tools and
//! tests. The grammar is that of the bdev seam: calls enqueue, [`Fabric::flush`] publishes, results
//! appear only in [`Fabric::poll`].
//!
//! Tokens make ownership visible: a [`Recv`] is a received information unit that the fabric keeps
//! until [`Fabric::repost`]; a [`Buf`] comes back with its event. After [`Event::Closed`] a
//! connection has no event but the ends of what the caller gave it too late; its number is reused
//! only after [`Fabric::release`].
#![deny(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use reactor::pool::Buf;
use reactor::{Batch, Instant, Tag};

mod control_thread;
pub mod dm;
mod half_open;
pub mod initiator;
pub mod pair;
mod peer_lines;
pub mod rdma;
mod shared;
pub mod shm;
pub mod sim;
pub mod socket_file;
pub mod srp;
mod undertaker;

/// A range of the initiator's memory. Unchecked: the fabric refuses what the initiator did not
/// register.
pub use srp::Seg as RemoteSeg;

/// A connection (SRP: RDMA channel) of one core's fabric. The index is dense and below
/// [`Fabric::connections_max`]; the generation tells a later user of the same index apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Dense number.
    pub index: u32,
    /// Use count of the number.
    pub generation: u32,
}

/// A received information unit: holds one posted receive until [`Fabric::repost`]. The bytes are
/// the target's own copy, at [`Fabric::iu`].
#[derive(Debug, PartialEq, Eq)]
pub struct Recv {
    /// The fabric's number for the receive.
    pub index: u32,
    /// Bytes received.
    pub len: u32,
}

/// Why a connection ended. Counted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloseReason {
    /// The initiator went away: process death, disconnect.
    PeerGone,
    /// The target closed it (logout, relogin, management).
    Local,
    /// The initiator broke the protocol.
    Protocol,
    /// Access to the initiator's memory failed.
    RemoteAccess,
    /// The link or device failed.
    Link,
}

/// What happened on a core's connections.
#[derive(Debug)]
pub enum Event {
    /// A peer asks to log in; its private data is at [`Fabric::login_data`]. Answered by
    /// [`Fabric::accept`] or [`Fabric::reject`].
    Login {
        /// The new connection.
        conn: ConnId,
    },
    /// An information unit arrived.
    Received {
        /// Where.
        conn: ConnId,
        /// Its token.
        recv: Recv,
    },
    /// A [`Fabric::fetch`] ended. `ok: false`: the connection is about to close.
    Fetched {
        /// The operation.
        tag: Tag,
        /// Its buffer.
        buf: Buf,
        /// All bytes are there.
        ok: bool,
    },
    /// A [`Fabric::reply`] ended. `ok: false`: the connection is about to close.
    Replied {
        /// The operation.
        tag: Tag,
        /// Its buffer, if it had one.
        buf: Option<Buf>,
        /// Data and response are in the initiator's hands.
        ok: bool,
    },
    /// The connection is gone. All fetches and replies that were enqueued before the poll that
    /// brought this event have ended; one enqueued later ends too, with `ok: false`, and is all
    /// that may follow. Tokens and lent buffers may still be held: when they are back and every
    /// operation has ended, [`Fabric::release`] it.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
}

/// Data that goes to the initiator before a response.
#[derive(Debug)]
pub enum DataIn<'a> {
    /// The first `len` bytes of `buf`, scattered over `to` in order. A lent buffer that is the
    /// whole of `to` is already in place.
    Buf {
        /// The data; comes back with [`Event::Replied`].
        buf: Buf,
        /// Bytes to move.
        len: u32,
        /// Where they go; in total at least `len` bytes.
        to: &'a [RemoteSeg],
    },
    /// `len` bytes that read as zero. A fabric whose initiator shares memory with the target leaves
    /// that memory alone.
    NoData {
        /// The command's buffer, given back with [`Event::Replied`].
        buf: Option<Buf>,
        /// Bytes.
        len: u32,
        /// Where they go.
        to: &'a [RemoteSeg],
    },
    /// Nothing moves; `buf`, if any, comes back with [`Event::Replied`].
    None {
        /// The command's buffer.
        buf: Option<Buf>,
    },
}

/// Facts of a connection for reports and session names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Fabric name: "shm", "sim", "rdma".
    pub trtype: &'static str,
    /// Listener the peer came through: socket path or address.
    pub traddr: String,
    /// The peer: "pid 1234", an IP address or a GID.
    pub peer: String,
    /// The target that owns the listener.
    pub target: String,
    /// Number of its login: grows in the order of arrival, over all listeners of the process.
    pub arrival: u64,
}

/// The number of a login that has just arrived: see [`PeerInfo::arrival`].
pub(crate) fn next_arrival() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One core's connections. Only the shard sees it.
pub trait Fabric {
    /// Connections this core can hold; indices of [`ConnId`] stay below.
    fn connections_max(&self) -> usize;

    /// Appends what happened, up to the room in `events`; the rest stays for the next call.
    fn poll(&mut self, now: Instant, events: &mut Batch<Event>);

    /// The private data of a login that has not been answered: a 64-byte or 56-byte request.
    fn login_data(&self, conn: ConnId) -> &[u8];

    /// Who is at the other end.
    fn peer(&self, conn: ConnId) -> PeerInfo;

    /// Answers a login: posts `credits` receives of `iu_bytes_max` bytes each, then sends the
    /// response. `ti_bytes_max` bounds what [`Fabric::reply`] will be given.
    fn accept(
        &mut self,
        conn: ConnId,
        login_rsp: &[u8],
        credits: u32,
        iu_bytes_max: u32,
        ti_bytes_max: u32,
    );

    /// Answers a login: sends the reject and closes.
    fn reject(&mut self, conn: ConnId, login_rej: &[u8]);

    /// The bytes of a received information unit: until it is reposted, nobody changes them.
    fn iu(&self, conn: ConnId, recv: &Recv) -> &[u8];

    /// Gives a receive back, ready for the next information unit. After [`Event::Closed`] it only
    /// frees the token.
    fn repost(&mut self, conn: ConnId, recv: Recv);

    /// Lends the initiator's own memory as a buffer: when `seg` is inside one registration and its
    /// address and length are multiples of `align`. `None`: use a pool buffer and move the data;
    /// also for ranges that are wrong, which then fail in `fetch` or `reply`. A fabric that lends
    /// shares memory with the initiator: until its next poll or the next failure on the
    /// connection, [`Fabric::finish`] is over when it returns.
    fn place(&mut self, conn: ConnId, seg: RemoteSeg, align: u32) -> Option<Buf>;

    /// Ends the loan of a buffer from [`Fabric::place`], whichever way it came back to the caller.
    fn give_back(&mut self, buf: Buf);

    /// Moves `buf.len()` bytes from the initiator's memory (RDMA READ) into a pool buffer; ends
    /// with one [`Event::Fetched`].
    fn fetch(&mut self, conn: ConnId, tag: Tag, buf: Buf, from: &[RemoteSeg]);

    /// Moves data to the initiator (RDMA WRITE), then sends the information unit `iu`, in this
    /// order; ends with one [`Event::Replied`]. `solicited`: raise the initiator's solicited event.
    fn reply(&mut self, conn: ConnId, tag: Tag, iu: &[u8], solicited: bool, data: DataIn<'_>);

    /// What most commands end with, in one call: [`Fabric::repost`], [`Fabric::give_back`] of a
    /// loan, and [`Fabric::reply`] without data. True: the response is in the initiator's hands
    /// already, and no [`Event::Replied`] follows.
    #[inline]
    #[must_use]
    fn finish(
        &mut self,
        conn: ConnId,
        tag: Tag,
        recv: Recv,
        loan: Option<Buf>,
        iu: &[u8],
        solicited: bool,
    ) -> bool {
        self.repost(conn, recv);
        if let Some(buf) = loan {
            self.give_back(buf);
        }
        self.reply(conn, tag, iu, solicited, DataIn::None { buf: None });
        false
    }

    /// Asks whether the peer is still there. One that is notices nothing; one that is not ends the
    /// connection with [`CloseReason::Link`] once all retries are in vain. Being asked again before
    /// the answer, or of a connection that is being made or ends, changes nothing. A fabric that
    /// always hears of its peers' ends has nothing to ask.
    fn probe(&mut self, _conn: ConnId) {}

    /// Ends the connection; [`Event::Closed`] follows after the events of what is in flight.
    fn close(&mut self, conn: ConnId, reason: CloseReason);

    /// All tokens and buffers of a closed connection are home and all its operations have ended:
    /// its number may be reused.
    fn release(&mut self, conn: ConnId);

    /// Publishes what has been enqueued: at most one doorbell per connection touched.
    fn flush(&mut self);

    /// Before the core sleeps: arms the wake-up. False when events are waiting already. The end of
    /// a reply need not wake: it is reported at the latest when the longest sleep is over.
    fn arm(&mut self) -> bool;
}
