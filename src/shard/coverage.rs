//! Coverage marks: rare ways that the simulated world must go through.
//!
//! Each [`Mark`] stands at one place of the code, each pair of [`At`] and [`Met`] for one thing
//! that can happen to a command in one phase of its life. Where debug assertions are on, passing by
//! counts; elsewhere nothing is compiled in.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! names {
    ($(#[$meta:meta])* $kind:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $kind { $($(#[$doc])* $name,)* }

        impl $kind {
            /// All of them, in order.
            pub const ALL: &[$kind] = &[$($kind::$name,)*];
        }
    };
}

names! {
    /// A rare way.
    Mark {
        /// A command waits for a slot.
        NoSlot,
        /// A command waits for a buffer.
        NoBuffer,
        /// Data that is made here waits for a buffer.
        NoBufferToMake,
        /// Buffers are kept for a command that was overtaken for long.
        Overdue,
        /// A command waits because the turn has moved enough.
        Sated,
        /// A command waits for a logical unit that another one has for itself.
        Excluded,
        /// Descriptors that can't be used.
        Refused,
        /// Less data than the CDB says.
        TooLittle,
        /// A unit attention is reported.
        Attention,
        /// A session must ask who is under a LUN before it may use that unit.
        UnknownUnit,
        /// A fetched table covers less than it promised.
        TableShort,
        /// An aborted command has come back.
        Discarded,
        /// A command of a channel that is gone has come back.
        Orphaned,
        /// An answer that belongs to no command was not sent.
        OwnSendFailed,
        /// A login makes no sense.
        LoginMalformed,
        /// A login of a channel that is gone is granted.
        GrantedLate,
        /// A login is refused by the registry.
        LoginRefused,
        /// A login takes over a session.
        Takeover,
        /// A login would take over a session of a later one.
        LoginOvertaken,
        /// Of several logins that take over, one loses.
        TakeoverLost,
        /// A session gets one more channel.
        ChannelAdded,
        /// A channel is asked whether its peer is there.
        Probed,
        /// A channel leaves in good order.
        Leaves,
        /// A channel has not left in time.
        LeaveOverdue,
        /// SRP_T_LOGOUT is sent.
        LogoutSaid,
        /// Something arrives on a channel that ends.
        ReceivedLate,
        /// Credits are returned by a request of ours.
        CreditsReturned,
        /// An event is reported by a request of ours.
        EventReported,
        /// A command is aborted that was still waiting.
        AbortedWaiting,
        /// A function's channel is gone before its answer.
        FunctionDropped,
        /// A function waits until another one has ended.
        FunctionWaits,
        /// A function that is not carried out.
        FunctionRefused,
        /// A mailbox is full.
        MailboxFull,
        /// A LUN is taken out of the map while commands use it.
        UnmapWaits,
        /// The control plane is asked to look at a device.
        Doubted,
        /// A change of a unit waits for the one before.
        DecisionWaits,
        /// Another session has reserved the unit.
        Conflict,
        /// What a session has reserved is released with its end.
        ReleasedWithSession,
        /// What a session has reserved is released with its LUN.
        ReleasedWithLun,
        /// A login waits for the end of the session before.
        LoginAfterLoss,
        /// A rate limit has changed, and who waits for it asks again.
        LimitRenewed,
        /// A rate limit is gone, and who waited for it goes on.
        LimitLifted,
        /// A device is flushed, and a read that asked for that goes on.
        FlushedToRead,
        /// A read or write is done in the call that took it.
        DoneAtOnce,
        /// A write whose data came with it is done in the call that took it.
        WrittenAtOnce,
        /// A device uses memory that its initiator has lent.
        Lent,
        /// Lent memory comes back with nothing to be answered.
        LentReturned,
    }
}

names! {
    /// Where a command is.
    At {
        /// Received, and held by a rate limit.
        Throttled,
        /// Received, in front of admission.
        Waiting,
        /// The fabric reads its descriptor table.
        FetchingTable,
        /// The fabric reads its data.
        Fetching,
        /// The device works.
        Executing,
        /// The home core of its unit decides.
        Deciding,
        /// The fabric moves its data and response.
        Replying,
    }
}

names! {
    /// What happens to it there.
    Met {
        /// It goes on.
        Success,
        /// The fabric or the device failed.
        Failure,
        /// A task management function is for it.
        Abort,
        /// Its channel is told to leave.
        Leave,
        /// Its channel is told to close.
        Close,
        /// Its channel is gone.
        Gone,
        /// Its LUN is taken out of the map.
        Unmap,
    }
}

static MARKS: [AtomicU64; Mark::ALL.len()] = [const { AtomicU64::new(0) }; Mark::ALL.len()];
static PAIRS: [[AtomicU64; Met::ALL.len()]; At::ALL.len()] =
    [const { [const { AtomicU64::new(0) }; Met::ALL.len()] }; At::ALL.len()];

/// Somebody came by.
#[inline(always)]
pub fn mark(mark: Mark) {
    if cfg!(debug_assertions) {
        MARKS[mark as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Something happened to a command.
#[inline(always)]
pub fn met(at: impl Into<At>, met: Met) {
    if cfg!(debug_assertions) {
        PAIRS[at.into() as usize][met as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Passes by a mark since the process began; 0 without debug assertions.
pub fn marked(mark: Mark) -> u64 {
    MARKS[mark as usize].load(Ordering::Relaxed)
}

/// Times that something happened to a command since the process began; 0 without debug assertions.
pub fn times_met(at: At, met: Met) -> u64 {
    PAIRS[at as usize][met as usize].load(Ordering::Relaxed)
}
