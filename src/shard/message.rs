//! What cores and the control plane say to each other. Values only, never closures.

use std::sync::Arc;

use bdev::Bdev;
use reactor::Tag;
use reactor::pool::ClassCount;
use transport::srp::{OtherChannels, RejectReason};
use transport::{CloseReason, ConnId};

use super::meter::{Histogram, OpKind};
use super::names::{CoreId, RequestKey, SessionId, TargetSpec, UnitId};
use super::session::Session;
use super::unit::{LogicalUnit, View};
use crate::scsi::Reserve;

pub use super::connections::connection::ChannelReport;
pub use super::counts::IoCounts;
pub use super::names::{ChannelAt, PortId, Token};

/// What the control plane asks every core to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Logins to this target are accepted from now on.
    CreateTarget(Arc<TargetSpec>),
    /// All sessions of the target end, then it is forgotten. Answered when no connection is left.
    DeleteTarget {
        /// Its name.
        target: String,
    },
    /// A logical unit is about to be mapped under a LUN where nothing is mapped. Answered when
    /// every session that knows another unit there must ask first: [`Action::MapLun`] comes after
    /// the answers, lest a core shows the new unit to a session that takes it for the one before.
    AnnounceLun {
        /// Target name.
        target: String,
        /// LUN, at most [`super::names::LUN_MAX`].
        lun: u16,
        /// What will be mapped.
        lu: Arc<LogicalUnit>,
    },
    /// Opens the device's channel on this core and shows the logical unit under `lun`.
    MapLun {
        /// Target name.
        target: String,
        /// LUN, at most [`super::names::LUN_MAX`].
        lun: u16,
        /// What is mapped.
        lu: Arc<LogicalUnit>,
        /// Writes are refused with WRITE PROTECTED.
        read_only: bool,
    },
    /// Takes the logical unit out of the map. Answered when no command uses the mapping.
    UnmapLun {
        /// Target name.
        target: String,
        /// LUN.
        lun: u16,
    },
    /// The map of a target has changed on every core: raise unit attention 3F/0E once per session.
    LunsChanged {
        /// Target name.
        target: String,
    },
    /// A device's size has changed: look again, and raise unit attention 2A/09 once per session.
    CapacityChanged {
        /// Device name.
        bdev: String,
    },
    /// A device's medium is gone or back: look again, and raise unit attention 28/00 once per
    /// session when it is back.
    MediumChanged {
        /// Device name.
        bdev: String,
        /// It is back.
        ready: bool,
    },
    /// Closes this core's channel of a bdev that no LUN uses any more. The answer is a report of
    /// what the channel did: [`Report::bdevs`] and [`Report::histogram`].
    CloseBdev {
        /// The device.
        bdev: Arc<dyn Bdev>,
    },
    /// Ends a session's channels on this core (SRP_T_LOGOUT, then disconnect). The registry's core
    /// is asked first: a channel whose login is granted but has not arrived ends when it does.
    Disconnect {
        /// Session number, as reports show it.
        session: SessionId,
    },
    /// The largest information units that logins agree on from now on.
    SetIuSizes {
        /// From an initiator, in bytes (`srp_max_req_size`).
        iu_bytes_max: u32,
        /// To an initiator, in bytes (`srp_max_rsp_size`).
        rsp_bytes_max: u32,
    },
    /// Starts [`IoCounts`] anew.
    ResetIoCounts {
        /// Names of the bdevs concerned.
        bdevs: Vec<String>,
        /// True: all counts. False: only the longest and shortest times.
        sums: bool,
    },
    /// The limits of a bdev have changed ([`super::unit::LogicalUnit::limiter`] has them already):
    /// what waits for them asks again, or goes on.
    RateLimits {
        /// Name of the bdev.
        bdev: String,
        /// There is a limit.
        limited: bool,
    },
    /// Begins to count how long a bdev's operations take, anew, or stops.
    SetHistogram {
        /// Name of the bdev.
        bdev: String,
        /// Count.
        enable: bool,
        /// One kind of operations, or all.
        only: Option<OpKind>,
    },
    /// Asks for [`Report::histogram`] of a bdev.
    Histogram {
        /// Name of the bdev.
        bdev: String,
    },
    /// The answer to [`Ask::LookAt`]: what has changed comes as an action of its own.
    Looked {
        /// Name of the device.
        bdev: String,
    },
    /// Asks for a [`Report`].
    Report,
    /// Stops: no new logins and commands, SRP_T_LOGOUT to everyone. Answered when nothing is left
    /// on the core. It goes on to answer other cores until [`Action::End`].
    Shutdown,
    /// Ends the core ([`reactor::Service::stopped`]), once every core has answered
    /// [`Action::Shutdown`]: nobody needs it any more.
    End,
}

/// A core's answer to an [`Action`].
#[derive(Debug)]
pub struct Answer {
    /// Which core.
    pub core: CoreId,
    /// The question's token.
    pub token: Token,
    /// What became of it. An error means that nothing changed on that core.
    pub result: Result<Report, ActionError>,
}

/// What a core wants of the control plane. The core goes on meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Operations of a device have failed: look whether its medium is there. Answered by
    /// [`Action::Looked`]; until then a core does not ask again.
    LookAt {
        /// Name of the device.
        bdev: String,
    },
}

/// What a core sends to the control plane.
#[derive(Debug)]
pub enum Up {
    /// An answer.
    Answer(Answer),
    /// A question of the core's own.
    Ask(CoreId, Ask),
}

/// Why a core refused an action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// A channel of the device could not be opened on the core.
    #[error("core {core}: {reason}")]
    OpenChannel {
        /// The core's number.
        core: CoreId,
        /// The device's reason.
        reason: String,
    },
}

/// One core's state for reports; empty for actions that change something.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Channels (connections) on this core.
    pub channels: Vec<ChannelReport>,
    /// Buffers per size class.
    pub buffers: Vec<ClassCount>,
    /// Request slots in all and in use.
    pub slots_total: u32,
    /// Request slots in use.
    pub slots_used: u32,
    /// Received information units that wait for a slot or buffer.
    pub waiting: u32,
    /// I/O counts per bdev name.
    pub bdevs: Vec<(String, IoCounts)>,
    /// How long a bdev's operations took, for who asks for that and where it is counted.
    pub histogram: Option<Box<Histogram>>,
    /// Connections closed, by reason, since the start.
    pub closed: Vec<(CloseReason, u64)>,
    /// Named counters of protocol violations and rejected logins since the start.
    pub counters: Vec<(&'static str, u64)>,
}

/// What travels in a core's mailbox.
#[derive(Debug)]
pub enum Message {
    /// The control plane asks; the core answers with an [`Answer`].
    Control {
        /// Names the question.
        token: Token,
        /// The question.
        action: Action,
    },
    /// Another core speaks (session registry, task management).
    Core(CoreMessage),
}

/// A login that passed the checks of its own core.
#[derive(Debug, Clone)]
pub struct LoginAsk {
    /// The channel that wants to be.
    pub channel: ChannelAt,
    /// The target it asked for.
    pub target: Arc<TargetSpec>,
    /// Initiator port identifier.
    pub initiator_port_id: PortId,
    /// Multichannel action: keep the session's other channels.
    pub multichannel: bool,
    /// See [`transport::PeerInfo::arrival`].
    pub arrival: u64,
}

/// Which commands a task management function ends (SAM-5 7.2 to 7.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortScope {
    /// ABORT TASK: one command of a session, by its LUN and tag (SAM-5 7.2: the I_T_L_Q nexus).
    Task {
        /// The session.
        session: SessionId,
        /// LUN of the command; `None` for the forms that name none.
        lun: Option<u16>,
        /// SRP tag of the command.
        tag: [u8; 8],
        /// The only channel to look at: the one that asked, if it has such a command. Tags of
        /// different channels may be equal.
        only: Option<ChannelAt>,
    },
    /// ABORT TASK SET: all commands of a session to a logical unit.
    TaskSet {
        /// The session.
        session: SessionId,
        /// The LUN that it named. Its commands to it are meant even if the map has changed since.
        lun: u16,
        /// [`LogicalUnit::id`].
        unit: UnitId,
    },
    /// CLEAR TASK SET and LOGICAL UNIT RESET: all commands of all sessions to a logical unit.
    Unit {
        /// The session that asked.
        session: SessionId,
        /// The LUN that it named. Its commands to it are meant even if the map has changed since.
        lun: u16,
        /// [`LogicalUnit::id`].
        unit: UnitId,
    },
}

impl AbortScope {
    /// True when commands of this session can be meant.
    pub fn concerns(&self, session: Option<SessionId>) -> bool {
        match self {
            AbortScope::Task { session: asked, .. }
            | AbortScope::TaskSet { session: asked, .. } => session == Some(*asked),
            AbortScope::Unit { .. } => true,
        }
    }
}

/// Core to core.
#[derive(Debug)]
pub enum CoreMessage {
    /// To the session registry's core: may this channel join or make a session?
    LoginAsk(LoginAsk),
    /// The registry's yes.
    LoginGranted {
        /// The connection that asked.
        conn: ConnId,
        /// Its session.
        session: Arc<Session>,
        /// What became of the session's other channels.
        others: OtherChannels,
    },
    /// The registry's no.
    LoginRefused {
        /// The connection that asked.
        conn: ConnId,
        /// Why.
        reason: RejectReason,
    },
    /// The session was taken over by a new login: end this channel.
    CloseChannel {
        /// Connection on the receiving core.
        conn: ConnId,
    },
    /// To the registry: the link of a channel is dead, as those of its session's others may be.
    LinkDead {
        /// Where it was.
        channel: ChannelAt,
    },
    /// The link of another channel of the session is dead: ask whether this one's peer is there.
    Probe {
        /// Connection on the receiving core.
        conn: ConnId,
    },
    /// To the registry: a channel has ended and none of its commands is left.
    ChannelGone {
        /// Where it was.
        channel: ChannelAt,
    },
    /// To the registry: raise a unit attention for every session of a target, at a LUN.
    Attention {
        /// Where a logical unit is mapped: pairs of target name and LUN.
        at: Vec<(String, u16)>,
        /// Bits of [`crate::scsi::attention`].
        bits: u16,
        /// A session that does not get it.
        except: Option<SessionId>,
    },
    /// Ends commands on the receiving core; answered by `Aborted` when none of them can change
    /// data any more.
    Abort {
        /// Which commands.
        scope: AbortScope,
        /// Core that carries out the function.
        from: CoreId,
        /// Its name for the function.
        task: Tag,
    },
    /// The answer to `Abort`, and to the decision that a reset needs.
    Aborted {
        /// The function.
        task: Tag,
        /// Commands that were ended.
        count: u32,
    },
    /// Between the home core of a unit and all cores.
    Home(HomeMessage),
    /// From the home core of a unit: a command's change is decided, and every core knows.
    Decided {
        /// The command.
        key: RequestKey,
        /// What has been decided.
        verdict: Verdict,
    },
    /// To the registry, from every core: what a session had reserved is released.
    NexusGone {
        /// The session.
        session: SessionId,
    },
}

/// What cores say to each other of what all of them go by.
#[derive(Debug)]
pub enum HomeMessage {
    /// To the home core of a unit.
    Decide(Decide),
    /// From the home core of a unit to every core: go by this from now on. Answered by `Viewed`.
    View {
        /// The unit.
        unit: UnitId,
        /// What holds from now on.
        view: View,
        /// The home core.
        home: CoreId,
    },
    /// The answer to `View`.
    Viewed {
        /// The unit.
        unit: UnitId,
    },
    /// From the registry to every core: a session that may have reserved units has ended. Answered
    /// by [`CoreMessage::NexusGone`].
    NexusLost {
        /// The session.
        session: SessionId,
    },
}

/// A change of what all cores go by, for the home core of a unit to decide.
#[derive(Debug)]
pub struct Decide {
    /// The unit.
    pub unit: UnitId,
    /// What is to change.
    pub change: Change,
    /// For whom.
    pub nexus: Nexus,
    /// Who is answered.
    pub asker: Asker,
}

/// A session, and the target that it reaches units through.
#[derive(Debug, Clone)]
pub struct Nexus {
    /// The session.
    pub session: SessionId,
    /// Its target.
    pub target: Arc<TargetSpec>,
}

/// What is to change at a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The unit is reserved or released for the session (SPC-2 5.5.1).
    Reserve(Reserve),
    /// LOGICAL UNIT RESET: reservations end.
    Reset,
}

/// Who waits for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A command: [`CoreMessage::Decided`].
    Request {
        /// Its core.
        core: CoreId,
        /// The core's name for the command.
        key: RequestKey,
    },
    /// A task management function: [`CoreMessage::Aborted`].
    Function {
        /// Its core.
        core: CoreId,
        /// The core's name for the function.
        task: Tag,
    },
    /// The end of a session: [`CoreMessage::NexusGone`].
    Nexus(SessionId),
    /// Nobody.
    Nobody,
}

/// What the home core of a unit has decided of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The change is made.
    Good,
    /// Another session has reserved the unit.
    Conflict,
    /// The unit is no longer in the map of the target.
    Absent,
}
