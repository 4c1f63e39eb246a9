//! The parameters of the kernel's `ib_srpt`, by their names.

/// The values of [`RdmaOptions`], as configuration gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RdmaValues {
    /// Largest information unit that an initiator may send: bytes, 996 to 65536.
    pub srp_max_req_size: u32,
    /// Largest information unit sent to an initiator: bytes, 54 to 8276. SRP_RSP takes 36 of them
    /// (SRP 6.9), the rest is room for sense data: 18 in fixed format, so ib_srpt's 40 are too few.
    pub srp_max_rsp_size: u32,
    /// Largest single RDMA transfer that device management advertises: bytes, 256 to 16 MiB.
    /// Longer transfers are split, whatever its value.
    pub srp_max_rdma_size: u32,
    /// Receives of a shared receive queue, one queue per core and device: 4 to 65535.
    pub srpt_srq_size: u32,
    /// The connections of a core and device share their receives.
    pub use_srq: bool,
    /// Send work requests of a connection: 16 to 65535. A device that refuses gets half, and so on
    /// down to 16.
    pub srpt_sq_size: u32,
    /// Channel k of a session goes to the k-th core after that of its first channel, round and
    /// round, as `ib_srp` goes through completion vectors. Otherwise each goes to the core with
    /// the fewest. Not a parameter of `ib_srpt`.
    pub channels_in_order: bool,
}

impl Default for RdmaValues {
    /// The defaults of `ib_srpt`: 8276, 256, 65536, 4095, no, 256. Channels not in order.
    fn default() -> Self {
        RdmaValues {
            srp_max_req_size: 8276,
            srp_max_rsp_size: 256,
            srp_max_rdma_size: 65536,
            srpt_srq_size: 4095,
            use_srq: false,
            srpt_sq_size: 256,
            channels_in_order: false,
        }
    }
}

/// Values that are in range. Having one tells you so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RdmaOptions(RdmaValues);

/// A parameter out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value} is not in {min}..={max}")]
pub struct OptionError {
    /// The parameter's name.
    pub field: &'static str,
    /// What was asked for.
    pub value: u32,
    /// Smallest value.
    pub min: u32,
    /// Largest value.
    pub max: u32,
}

/// The ranges of [`RdmaValues`], smallest and largest.
pub mod range {
    /// `srp_max_req_size`, bytes.
    pub const SRP_MAX_REQ_SIZE: (u32, u32) = (996, 65536);
    /// `srp_max_rsp_size`, bytes.
    pub const SRP_MAX_RSP_SIZE: (u32, u32) = (54, 8276);
    /// `srp_max_rdma_size`, bytes.
    pub const SRP_MAX_RDMA_SIZE: (u32, u32) = (256, 16 << 20);
    /// `srpt_srq_size`, receives.
    pub const SRPT_SRQ_SIZE: (u32, u32) = (4, 65535);
    /// `srpt_sq_size`, work requests.
    pub const SRPT_SQ_SIZE: (u32, u32) = (16, 65535);
}

impl RdmaOptions {
    /// Checks every range. The error names the first field that is outside.
    pub fn new(values: RdmaValues) -> Result<Self, OptionError> {
        let check = |field, value, (min, max): (u32, u32)| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(OptionError { field, value, min, max })
            }
        };
        check("srp_max_req_size", values.srp_max_req_size, range::SRP_MAX_REQ_SIZE)?;
        check("srp_max_rsp_size", values.srp_max_rsp_size, range::SRP_MAX_RSP_SIZE)?;
        check("srp_max_rdma_size", values.srp_max_rdma_size, range::SRP_MAX_RDMA_SIZE)?;
        check("srpt_srq_size", values.srpt_srq_size, range::SRPT_SRQ_SIZE)?;
        check("srpt_sq_size", values.srpt_sq_size, range::SRPT_SQ_SIZE)?;
        Ok(RdmaOptions(values))
    }

    /// The first field that differs from `other` and that devices in use are laid out for: all but
    /// the transfer size, which is only advertised, and the order of channels.
    pub fn laid_out_otherwise(&self, other: &RdmaOptions) -> Option<&'static str> {
        [
            ("srp_max_req_size", self.srp_max_req_size != other.srp_max_req_size),
            ("srp_max_rsp_size", self.srp_max_rsp_size != other.srp_max_rsp_size),
            ("srpt_srq_size", self.srpt_srq_size != other.srpt_srq_size),
            ("use_srq", self.use_srq != other.use_srq),
            ("srpt_sq_size", self.srpt_sq_size != other.srpt_sq_size),
        ]
        .into_iter()
        .find_map(|(field, differs)| differs.then_some(field))
    }
}

impl std::ops::Deref for RdmaOptions {
    type Target = RdmaValues;
    fn deref(&self) -> &RdmaValues {
        &self.0
    }
}

/// Capacities of one core's fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FabricOptions {
    /// Connections that the core holds at a time.
    pub connections_max: usize,
    /// Fetches and replies in flight at a time, over all connections. Exceeding it is a bug.
    pub operations_max: usize,
    /// The parameters of ib_srpt.
    pub rdma: RdmaOptions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range() {
        assert_eq!(RdmaOptions::new(RdmaValues::default()), Ok(RdmaOptions::default()));
    }

    #[test]
    fn an_error_names_field_and_range() {
        let error = RdmaOptions::new(RdmaValues { srpt_sq_size: 15, ..Default::default() });
        assert_eq!(error.unwrap_err().to_string(), "srpt_sq_size: 15 is not in 16..=65535");
        let error = RdmaOptions::new(RdmaValues { srp_max_rsp_size: 53, ..Default::default() });
        assert_eq!(error.unwrap_err().field, "srp_max_rsp_size");
        let error = RdmaOptions::new(RdmaValues { srp_max_req_size: 65537, ..Default::default() });
        assert_eq!(error.unwrap_err().field, "srp_max_req_size");
    }

    #[test]
    fn advertised_size_and_order_need_no_new_layout() {
        let defaults = RdmaOptions::default();
        let with = |values| RdmaOptions::new(values).unwrap().laid_out_otherwise(&defaults);
        let values = RdmaValues::default();
        assert_eq!(with(RdmaValues { srp_max_rdma_size: 4096, ..values }), None);
        assert_eq!(with(RdmaValues { channels_in_order: true, ..values }), None);
        assert_eq!(with(RdmaValues { use_srq: true, ..values }), Some("use_srq"));
        assert_eq!(with(RdmaValues { srpt_sq_size: 16, ..values }), Some("srpt_sq_size"));
        assert_eq!(with(RdmaValues { srpt_srq_size: 4, ..values }), Some("srpt_srq_size"));
        assert_eq!(with(RdmaValues { srp_max_req_size: 996, ..values }), Some("srp_max_req_size"));
        assert_eq!(with(RdmaValues { srp_max_rsp_size: 54, ..values }), Some("srp_max_rsp_size"));
    }
}
