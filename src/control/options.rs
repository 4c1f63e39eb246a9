//! The parameters of `ib_srpt` that this target has too, by their names.
//!
//! They are changed as a whole: every value is known to be in range before anything is touched, and
//! the cores and fabrics either all have the new ones or keep the old ones.

use transport::rdma::RdmaOptions;

use super::{Control, Desk, Refused};
use crate::shard::message::Action;

/// What holds for all targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Sizes of information units and queues. The sizes of information units hold for logins on
    /// every fabric.
    pub rdma: RdmaOptions,
    /// Service GUID of a target that is created without one; `None`: derived from host and name.
    pub srpt_service_guid: Option<u64>,
    /// Port of rdma listeners that are added without one; 0: they must name theirs.
    pub rdma_cm_port: u16,
}

impl Control {
    /// What holds for all targets.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Only the rdma fabric can refuse.
    fn configure(&mut self, rdma: &RdmaOptions) -> Result<(), Refused> {
        for listeners in self.listeners.values() {
            listeners.configure(rdma)?;
        }
        Ok(())
    }
}

impl Desk {
    /// Changes what holds for all targets: logins and targets that come after the call. The sizes
    /// can't change any more once there has been an rdma listener (EBUSY): devices are laid out for
    /// them. What held before.
    pub async fn set_options<E: From<Refused>>(
        &self,
        change: impl FnOnce(&Options) -> Result<Options, E>,
    ) -> Result<Options, E> {
        let _hold = self.hold("options".to_owned(), "being set").await?;
        let before = self.with(|control| control.options);
        let options = change(&before)?;
        if options.rdma != before.rdma {
            self.with(|control| control.configure(&options.rdma))?;
            if let Err(refused) = self.all_or_undo(&sizes(&options), &sizes(&before)).await {
                self.with(|control| control.configure(&before.rdma))?;
                return Err(refused.into());
            }
        }
        self.with(|control| {
            control.options = options;
            control.show_controllers();
        });
        Ok(before)
    }
}

fn sizes(options: &Options) -> Action {
    Action::SetIuSizes {
        iu_bytes_max: options.rdma.srp_max_req_size,
        rsp_bytes_max: options.rdma.srp_max_rsp_size,
    }
}
