//! SRP_TSK_MGMT: a task management function (SRP 16A, 6.7).

use super::{Lun, Malformed, Opcode, SolNot, TAG, Tag, field, fixed, put, start, tag};

const SOL_NOT: usize = 1;
const LUN: usize = 20;
const TSK_MGMT_FUNC: usize = 30;
const TASK_TAG: usize = 32;

/// A task management function (SAM-5, 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Tmf {
    /// ABORT TASK: the command of `task_tag`.
    AbortTask = 0x01,
    /// ABORT TASK SET: all commands of this I_T nexus.
    AbortTaskSet = 0x02,
    /// CLEAR TASK SET: all commands of the logical unit.
    ClearTaskSet = 0x04,
    /// LOGICAL UNIT RESET.
    LunReset = 0x08,
    /// CLEAR ACA.
    ClearAca = 0x40,
}

impl Tmf {
    /// The function of a code, if it is defined.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Tmf::AbortTask,
            0x02 => Tmf::AbortTaskSet,
            0x04 => Tmf::ClearTaskSet,
            0x08 => Tmf::LunReset,
            0x40 => Tmf::ClearAca,
            _ => return None,
        })
    }
}

/// A task management request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TskMgmt {
    /// The initiator's name for this request.
    pub tag: Tag,
    /// The logical unit.
    pub lun: Lun,
    /// Whether the response is to raise a solicited event.
    pub sol_not: SolNot,
    /// The function's code as received; see [`TskMgmt::tmf`].
    pub function: u8,
    /// The command that ABORT TASK is for.
    pub task_tag: Tag,
}

impl TskMgmt {
    /// Bytes.
    pub const LEN: usize = 48;

    /// The function; `None` is to be answered "function not supported".
    pub const fn tmf(&self) -> Option<Tmf> {
        Tmf::from_byte(self.function)
    }

    /// Parses the received bytes.
    pub fn parse(iu: &[u8]) -> Result<Self, Malformed> {
        let head: &[u8; Self::LEN] = fixed(iu, Opcode::TskMgmt)?;
        Ok(TskMgmt {
            tag: tag(head),
            lun: Lun(field(head, LUN)),
            sol_not: SolNot::from_byte(head[SOL_NOT]),
            function: head[TSK_MGMT_FUNC],
            task_tag: field(head, TASK_TAG),
        })
    }

    /// Writes the IU and returns its bytes, 48.
    pub fn emit(&self, to: &mut [u8]) -> usize {
        let head: &mut [u8; Self::LEN] = start(to, Opcode::TskMgmt);
        head[SOL_NOT] = self.sol_not.to_byte();
        put(head, TAG, &self.tag);
        put(head, LUN, &self.lun.0);
        head[TSK_MGMT_FUNC] = self.function;
        put(head, TASK_TAG, &self.task_tag);
        Self::LEN
    }
}
