//! The parameters of `ib_srpt`.

use std::borrow::Cow;

use rustix::io::Errno;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use transport::rdma::{RdmaOptions, RdmaValues, range};

use super::{BUSY, CORE_SILENT, Method, Outcome, change, locked};
use crate::control::{Control, Desk, Options};
use crate::rpc::change::{Changed, Undo};
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, Bounded, Guid, Params};
use crate::rpc::schema::{Rank, fails, gives, member};

pub(super) const METHODS: [Method; 2] = [
    change("srpt_set_options", Rank::Options, |desk, params| Box::pin(set(desk, params)))
        .doc(
            "Sets parameters of ib_srpt. What is absent stays as it is. Sizes can be set only \
             before the first rdma listener, and hold for logins that come after.",
        )
        .takes::<SetParams>()
        .fails(&[
            fails(Errno::BUSY, "There is an rdma listener already, and a size would change."),
            CORE_SILENT,
            BUSY,
        ])
        .example(r#"{"srp_max_req_size":8192,"use_srq":true}"#),
    locked("srpt_get_options", get).doc("Shows the parameters of ib_srpt.").gives(
        gives("object", "All options, as srpt_set_options takes them.").of(&[
            member("srp_max_req_size", "integer", "Bytes of the largest IU of an initiator."),
            member("srp_max_rsp_size", "integer", "Bytes of the largest IU to an initiator."),
            member("srp_max_rdma_size", "integer", "Bytes of the largest transfer."),
            member("srpt_srq_size", "integer", "Receives of a shared receive queue."),
            member("use_srq", "boolean", "Connections of a core and device share receives."),
            member("srpt_sq_size", "integer", "Send work requests of a connection."),
            member("channels_in_order", "boolean", "Channels go round the cores in order."),
            member("srpt_service_guid", "string", "Service GUID of targets; zeros: derived."),
            member("rdma_cm_port", "integer", "Port of rdma listeners without one; 0: none."),
        ]),
    ),
];

type ReqSize = Bounded<{ range::SRP_MAX_REQ_SIZE.0 as u64 }, { range::SRP_MAX_REQ_SIZE.1 as u64 }>;
type RspSize = Bounded<{ range::SRP_MAX_RSP_SIZE.0 as u64 }, { range::SRP_MAX_RSP_SIZE.1 as u64 }>;
type RdmaSize =
    Bounded<{ range::SRP_MAX_RDMA_SIZE.0 as u64 }, { range::SRP_MAX_RDMA_SIZE.1 as u64 }>;
type SrqSize = Bounded<{ range::SRPT_SRQ_SIZE.0 as u64 }, { range::SRPT_SRQ_SIZE.1 as u64 }>;
type SqSize = Bounded<{ range::SRPT_SQ_SIZE.0 as u64 }, { range::SRPT_SQ_SIZE.1 as u64 }>;

/// A GUID, or all zeros for none, as `ib_srpt` has it.
struct DefaultGuid(Option<u64>);

impl<'de> Deserialize<'de> for DefaultGuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let zero = text.bytes().all(|byte| byte == b'0') && matches!(text.len(), 1 | 16);
        if zero {
            return Ok(DefaultGuid(None));
        }
        let text = serde::de::value::StringDeserializer::new(text);
        Guid::deserialize(text).map(|guid| DefaultGuid(Some(guid.0)))
    }
}

impl JsonSchema for DefaultGuid {
    fn schema_name() -> Cow<'static, str> {
        "DefaultGuid".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Guid::json_schema(generator)
    }
}

/// What is absent stays.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SetParams {
    /// Largest information unit from an initiator.
    #[serde(default)]
    #[schemars(extend("x-unit" = "bytes"))]
    srp_max_req_size: Option<ReqSize>,
    /// Largest information unit to an initiator.
    #[serde(default)]
    #[schemars(extend("x-unit" = "bytes"))]
    srp_max_rsp_size: Option<RspSize>,
    /// Largest transfer, as initiators are told.
    #[serde(default)]
    #[schemars(extend("x-unit" = "bytes"))]
    srp_max_rdma_size: Option<RdmaSize>,
    /// Length of a shared receive queue.
    #[serde(default)]
    #[schemars(extend("x-unit" = "receives"))]
    srpt_srq_size: Option<SrqSize>,
    /// Connections of a core and device share their receives.
    #[serde(default)]
    use_srq: Option<bool>,
    /// Length of a connection's send queue.
    #[serde(default)]
    #[schemars(extend("x-unit" = "work requests"))]
    srpt_sq_size: Option<SqSize>,
    /// Channel k of an rdma session goes to the k-th core after that of its first channel.
    #[serde(default)]
    channels_in_order: Option<bool>,
    /// Service GUID of targets that are created without one; all zeros: derived from host and
    /// name.
    #[serde(default)]
    srpt_service_guid: Option<DefaultGuid>,
    /// Port of rdma listeners that are added without one; 0: they must name theirs.
    #[serde(default)]
    rdma_cm_port: Option<Bounded<0, 65535>>,
}

async fn set(desk: &Desk, params: Params<'_>) -> Changed {
    let params: SetParams = params::parse(params)?;
    let before = desk.set_options(|before| changed(before, params)).await?;
    Ok((json!(true), Undo::Options(before)))
}

fn changed(before: &Options, params: SetParams) -> Result<Options, RpcError> {
    let old = *before.rdma;
    let values = RdmaValues {
        srp_max_req_size: params.srp_max_req_size.map_or(old.srp_max_req_size, |v| v.0 as u32),
        srp_max_rsp_size: params.srp_max_rsp_size.map_or(old.srp_max_rsp_size, |v| v.0 as u32),
        srp_max_rdma_size: params.srp_max_rdma_size.map_or(old.srp_max_rdma_size, |v| v.0 as u32),
        srpt_srq_size: params.srpt_srq_size.map_or(old.srpt_srq_size, |v| v.0 as u32),
        use_srq: params.use_srq.unwrap_or(old.use_srq),
        srpt_sq_size: params.srpt_sq_size.map_or(old.srpt_sq_size, |v| v.0 as u32),
        channels_in_order: params.channels_in_order.unwrap_or(old.channels_in_order),
    };
    Ok(Options {
        rdma: RdmaOptions::new(values).map_err(RpcError::invalid_params)?,
        srpt_service_guid: params.srpt_service_guid.map_or(before.srpt_service_guid, |v| v.0),
        rdma_cm_port: params.rdma_cm_port.map_or(before.rdma_cm_port, |v| v.0 as u16),
    })
}

fn get(control: &mut Control, params: Params<'_>) -> Outcome {
    params::none("srpt_get_options", params)?;
    Ok(shown(control.options()))
}

/// All options, as `srpt_set_options` takes them.
pub(super) fn shown(options: &Options) -> Value {
    let rdma = &options.rdma;
    json!({
        "srp_max_req_size": rdma.srp_max_req_size,
        "srp_max_rsp_size": rdma.srp_max_rsp_size,
        "srp_max_rdma_size": rdma.srp_max_rdma_size,
        "srpt_srq_size": rdma.srpt_srq_size,
        "use_srq": rdma.use_srq,
        "srpt_sq_size": rdma.srpt_sq_size,
        "channels_in_order": rdma.channels_in_order,
        "srpt_service_guid": format!("{:016x}", options.srpt_service_guid.unwrap_or(0)),
        "rdma_cm_port": options.rdma_cm_port,
    })
}
