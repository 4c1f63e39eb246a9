//! Bdevs over other bdevs: passthru, delay and error.

use bdev::stacked::delay::{Delay, DelayOptions, LatencyType, LatencyUs};
use bdev::stacked::fault::{Corruption, ErrorInjection, ErrorOptions, Fault, Injection, IoType};
use bdev::stacked::passthru::PassthruOptions;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::json;

use super::bdevs::{BDEV_EXISTS, BDEV_IN_USE, NAME, NameParams, create, delete};
use super::{CORE_SILENT, Method, NO_BDEV, NO_SUCH_BDEV, Outcome, change, locked, shared};
use crate::control::bdevs::{self, MakeError};
use crate::control::{Control, Desk};
use crate::rpc::change::Changed;
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, BdevName, Bounded, Params};
use crate::rpc::schema::Rank;

pub(super) const METHODS: [Method; 9] = [
    change("bdev_passthru_create", Rank::Bdevs, |desk, params| {
        Box::pin(create::<PassthruOptions>(desk, params))
    })
    .doc("Creates a bdev that hands everything on to another one.")
    .takes::<PassthruOptions>()
    .gives(NAME)
    .fails(&[NO_BDEV, BDEV_EXISTS, BDEV_IN_USE])
    .example(r#"{"base_bdev_name":"Malloc1","name":"Passthru9"}"#),
    shared("bdev_passthru_delete", |desk, params| {
        Box::pin(delete::<PassthruOptions>(desk, params))
    })
    .doc("Deletes a passthru bdev. The bdev below stays.")
    .takes::<NameParams>()
    .fails(&[NO_SUCH_BDEV, BDEV_IN_USE])
    .example(r#"{"name":"Passthru0"}"#),
    change("bdev_delay_create", Rank::Bdevs, |desk, params| {
        Box::pin(create::<DelayOptions>(desk, params))
    })
    .doc("Creates a bdev that makes another one slow.")
    .takes::<DelayOptions>()
    .gives(NAME)
    .fails(&[NO_BDEV, BDEV_EXISTS, BDEV_IN_USE])
    .example(
        r#"{"base_bdev_name":"Malloc1","name":"Delay9","avg_read_latency":100,
                "p99_read_latency":1000,"avg_write_latency":200,"p99_write_latency":2000}"#,
    ),
    shared("bdev_delay_delete", |desk, params| Box::pin(delete::<DelayOptions>(desk, params)))
        .doc("Deletes a delay bdev. The bdev below stays.")
        .takes::<NameParams>()
        .fails(&[NO_SUCH_BDEV, BDEV_IN_USE])
        .example(r#"{"name":"Delay0"}"#),
    shared("bdev_delay_update_latency", |desk, params| Box::pin(update_latency(desk, params)))
        .doc("Changes one latency of a delay bdev.")
        .takes::<UpdateParams>()
        .fails(&[NO_SUCH_BDEV])
        .example(r#"{"delay_bdev_name":"Delay0","latency_type":"p99_read","latency_us":5000}"#),
    change("bdev_error_create", Rank::Bdevs, |desk, params| Box::pin(error_create(desk, params)))
        .doc("Creates a bdev EE_NAME that makes another one, NAME, fail on demand.")
        .takes::<ErrorOptions>()
        .fails(&[NO_BDEV, BDEV_EXISTS, BDEV_IN_USE])
        .example(r#"{"base_name":"Malloc1"}"#),
    shared("bdev_error_delete", |desk, params| Box::pin(delete::<ErrorOptions>(desk, params)))
        .doc("Deletes an error bdev. The bdev below stays.")
        .takes::<NameParams>()
        .fails(&[NO_SUCH_BDEV, BDEV_IN_USE])
        .example(r#"{"name":"EE_Null3"}"#),
    locked("bdev_error_inject_error", inject_error)
        .doc("Makes operations of an error bdev fail, stay pending, or corrupt data.")
        .takes::<InjectParams>()
        .fails(&[NO_SUCH_BDEV])
        .example(
            r#"{"name":"EE_Null3","io_type":"read","error_type":"corrupt_data","num":5,
                "queue_depth":1,"corrupt_offset":3,"corrupt_value":255}"#,
        ),
    shared("bdev_error_resume_pending", |desk, params| Box::pin(resume_pending(desk, params)))
        .doc("Lets the pending operations of an error bdev go on.")
        .takes::<NameParams>()
        .fails(&[NO_SUCH_BDEV, CORE_SILENT])
        .example(r#"{"name":"EE_Null3"}"#),
];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UpdateParams {
    /// Name or UUID of the delay bdev.
    delay_bdev_name: BdevName,
    /// Which of its latencies.
    #[schemars(schema_with = "latency_type")]
    latency_type: LatencyType,
    /// The new latency. That of 1 operation in 100 stays at least that of the others.
    #[schemars(extend("x-unit" = "us"))]
    latency_us: LatencyUs,
}

fn latency_type(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["avg_read", "p99_read", "avg_write", "p99_write"] })
}

async fn update_latency(desk: &Desk, params: Params<'_>) -> Outcome {
    let UpdateParams { delay_bdev_name: name, latency_type, latency_us } = params::parse(params)?;
    let update = |control: &mut Control| {
        let method = "bdev_delay_update_latency";
        let delay = control.bdevs().of_kind::<Delay>(&name.0, method)?;
        Ok(delay.update(latency_type, latency_us.0)?)
    };
    bdevs::change(desk, &name.0, update).await?;
    Ok(json!(true))
}

/// Answers `true` and not the name, as SPDK does.
async fn error_create(desk: &Desk, params: Params<'_>) -> Changed {
    let (_, undo) = create::<ErrorOptions>(desk, params).await?;
    Ok((json!(true), undo))
}

#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Injected {
    Clear,
    Read,
    Write,
    Unmap,
    Flush,
    WriteZeroes,
    All,
}

#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum ErrorType {
    Failure,
    Pending,
    CorruptData,
    Nomem,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct InjectParams {
    /// Name or UUID of the error bdev.
    name: BdevName,
    /// Which operations; `clear` takes all errors back.
    io_type: Injected,
    /// What becomes of them. `nomem`, which SPDK has, is always refused.
    error_type: ErrorType,
    /// How many operations; 1 if absent.
    #[serde(default)]
    #[schemars(extend("x-unit" = "operations"))]
    num: Option<Bounded<0, { u32::MAX as u64 }>>,
    /// Only while at least as many operations are under way on a core; 0 if absent.
    #[serde(default)]
    #[schemars(extend("x-unit" = "operations"))]
    queue_depth: Option<Bounded<0, { u64::MAX }>>,
    /// Place of the byte that `corrupt_data` changes; 0 if absent.
    #[serde(default)]
    #[schemars(extend("x-unit" = "bytes"))]
    corrupt_offset: Option<Bounded<0, { u64::MAX }>>,
    /// The byte is exclusive-ored with it; `corrupt_data` needs it.
    #[serde(default)]
    corrupt_value: Option<Bounded<1, 255>>,
}

impl InjectParams {
    fn fault(&self) -> Result<Fault, RpcError> {
        match (self.error_type, self.corrupt_value) {
            (ErrorType::Failure, _) => Ok(Fault::Failure),
            (ErrorType::Pending, _) => Ok(Fault::Pending),
            (ErrorType::CorruptData, Some(Bounded(value))) => {
                let offset = self.corrupt_offset.map_or(0, |offset| offset.0);
                Ok(Fault::CorruptData(Corruption { offset, value: value as u8 }))
            }
            (ErrorType::CorruptData, None) => {
                Err(RpcError::invalid_params("corrupt_value: corrupt_data needs one of 1..=255"))
            }
            (ErrorType::Nomem, _) => Err(RpcError::invalid_params(
                "error_type: nomem is not supported: an operation has all its memory before it \
                 reaches a bdev",
            )),
        }
    }
}

fn inject_error(control: &mut Control, params: Params<'_>) -> Outcome {
    let params: InjectParams = params::parse(params)?;
    let fault = params.fault()?;
    let io_types = match params.io_type {
        Injected::Clear | Injected::All => &IoType::ALL[..],
        Injected::Read => &[IoType::Read],
        Injected::Write => &[IoType::Write],
        Injected::Unmap => &[IoType::Unmap],
        Injected::Flush => &[IoType::Flush],
        Injected::WriteZeroes => &[IoType::WriteZeroes],
    };
    let injection = Injection {
        fault,
        num: params.num.map_or(1, |num| num.0 as u32),
        queue_depth: params.queue_depth.map_or(0, |depth| depth.0),
    };
    let errors =
        control.bdevs().of_kind::<ErrorInjection>(&params.name.0, "bdev_error_inject_error");
    let errors = errors.map_err(MakeError::from)?;
    match params.io_type {
        Injected::Clear => errors.clear(),
        _ => errors.inject(io_types, injection),
    }
    Ok(json!(true))
}

async fn resume_pending(desk: &Desk, params: Params<'_>) -> Outcome {
    let NameParams { name } = params::parse(params)?;
    bdevs::resume_pending(desk, &name.0).await?;
    Ok(json!(true))
}
