//! Bdevs over other bdevs: passthru, delay and error.

use std::sync::Arc;

use bdev::Bdev;
use bdev::delay::{DelayOptions, LATENCY_US_MAX, Latencies, LatencyType};
use bdev::error::{Corruption, ErrorOptions, Fault, Injection, IoType};
use bdev::passthru::PassthruOptions;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bdevs::{BDEV_EXISTS, BDEV_IN_USE, NAME, NameParams, delete, made, refused};
use super::{
    CORE_SILENT, CORE_STOPPED, Method, NO_BDEV, NO_SUCH_BDEV, Outcome, Undo, change, locked,
};
use crate::control::Control;
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, BdevName, Bounded, Params, UuidText};
use crate::rpc::schema::Rank;

pub(super) const METHODS: [Method; 9] = [
    change("bdev_passthru_create", Rank::Bdevs, passthru_create)
        .doc("Creates a bdev that hands everything on to another one.")
        .takes::<PassthruParams>()
        .gives(NAME)
        .fails(&[NO_BDEV, BDEV_EXISTS, BDEV_IN_USE])
        .example(r#"{"base_bdev_name":"Malloc1","name":"Passthru9"}"#),
    locked("bdev_passthru_delete", |control, params| {
        delete(control, "bdev_passthru_delete", params)
    })
    .doc("Deletes a passthru bdev. The bdev below stays.")
    .takes::<NameParams>()
    .fails(&[NO_SUCH_BDEV, BDEV_IN_USE])
    .example(r#"{"name":"Passthru0"}"#),
    change("bdev_delay_create", Rank::Bdevs, delay_create)
        .doc("Creates a bdev that makes another one slow.")
        .takes::<DelayParams>()
        .gives(NAME)
        .fails(&[NO_BDEV, BDEV_EXISTS, BDEV_IN_USE])
        .example(
            r#"{"base_bdev_name":"Malloc1","name":"Delay9","avg_read_latency":100,
                "p99_read_latency":1000,"avg_write_latency":200,"p99_write_latency":2000}"#,
        ),
    locked("bdev_delay_delete", |control, params| delete(control, "bdev_delay_delete", params))
        .doc("Deletes a delay bdev. The bdev below stays.")
        .takes::<NameParams>()
        .fails(&[NO_SUCH_BDEV, BDEV_IN_USE])
        .example(r#"{"name":"Delay0"}"#),
    locked("bdev_delay_update_latency", update_latency)
        .doc("Changes one latency of a delay bdev.")
        .takes::<UpdateParams>()
        .fails(&[NO_SUCH_BDEV])
        .example(r#"{"delay_bdev_name":"Delay0","latency_type":"p99_read","latency_us":5000}"#),
    change("bdev_error_create", Rank::Bdevs, error_create)
        .doc("Creates a bdev EE_NAME that makes another one, NAME, fail on demand.")
        .takes::<ErrorParams>()
        .fails(&[NO_BDEV, BDEV_EXISTS, BDEV_IN_USE])
        .example(r#"{"base_name":"Malloc1"}"#),
    locked("bdev_error_delete", |control, params| delete(control, "bdev_error_delete", params))
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
    locked("bdev_error_resume_pending", resume_pending)
        .doc("Lets the pending operations of an error bdev go on.")
        .takes::<NameParams>()
        .fails(&[NO_SUCH_BDEV, CORE_SILENT, CORE_STOPPED])
        .example(r#"{"name":"EE_Null3"}"#),
];

/// Microseconds.
type LatencyUs = Bounded<0, LATENCY_US_MAX>;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PassthruParams {
    /// Name or UUID of the bdev below.
    base_bdev_name: BdevName,
    /// Name of the new bdev.
    name: BdevName,
    /// Identity; derived from host and name if absent.
    #[serde(default)]
    uuid: Option<UuidText>,
}

fn passthru_create(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let PassthruParams { base_bdev_name, name, uuid } = params::parse(params)?;
    let options = PassthruOptions {
        name: name.0,
        base: free_base(control, base_bdev_name)?,
        uuid: uuid.map(|uuid| uuid.0),
    };
    Ok(made(&control.bdevs_mut().create_passthru(options).map_err(refused)?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DelayParams {
    /// Name or UUID of the bdev below.
    base_bdev_name: BdevName,
    /// Name of the new bdev.
    name: BdevName,
    /// Identity; derived from host and name if absent.
    #[serde(default)]
    uuid: Option<UuidText>,
    /// How much longer 99 reads in 100 take.
    #[schemars(extend("x-unit" = "us"))]
    avg_read_latency: LatencyUs,
    /// How much longer 1 read in 100 takes; not below `avg_read_latency`.
    #[schemars(extend("x-unit" = "us"))]
    p99_read_latency: LatencyUs,
    /// How much longer 99 writes in 100 take.
    #[schemars(extend("x-unit" = "us"))]
    avg_write_latency: LatencyUs,
    /// How much longer 1 write in 100 takes; not below `avg_write_latency`.
    #[schemars(extend("x-unit" = "us"))]
    p99_write_latency: LatencyUs,
}

fn delay_create(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let params: DelayParams = params::parse(params)?;
    let options = DelayOptions {
        name: params.name.0,
        base: free_base(control, params.base_bdev_name)?,
        uuid: params.uuid.map(|uuid| uuid.0),
        latencies: Latencies {
            avg_read_us: params.avg_read_latency.0,
            p99_read_us: params.p99_read_latency.0,
            avg_write_us: params.avg_write_latency.0,
            p99_write_us: params.p99_write_latency.0,
        },
    };
    Ok(made(&control.bdevs_mut().create_delay(options).map_err(refused)?))
}

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

fn update_latency(control: &mut Control, params: Params<'_>) -> Outcome {
    let UpdateParams { delay_bdev_name: name, latency_type, latency_us } = params::parse(params)?;
    let updated = control.bdevs().update_latency(&name.0, latency_type, latency_us.0);
    updated.map_err(refused)?;
    Ok(json!(true))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ErrorParams {
    /// Name or UUID of the bdev below.
    base_name: BdevName,
    /// Identity; derived from host and name if absent.
    #[serde(default)]
    uuid: Option<UuidText>,
}

/// Answers `true` and not the name, as SPDK does.
fn error_create(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let ErrorParams { base_name, uuid } = params::parse(params)?;
    let options =
        ErrorOptions { base: free_base(control, base_name)?, uuid: uuid.map(|uuid| uuid.0) };
    let bdev: Arc<dyn Bdev> = control.bdevs_mut().create_error(options).map_err(refused)?;
    let (_, undo) = made(&bdev);
    Ok((json!(true), undo))
}

/// A base that no LUN shows; whether another bdev has it, the registry knows.
fn free_base(control: &Control, base: BdevName) -> Result<String, RpcError> {
    control.refuse_mapped(control.bdev(&base.0)?.name())?;
    Ok(base.0)
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
    let injection = (!matches!(params.io_type, Injected::Clear)).then_some(injection);
    control.bdevs().inject_error(&params.name.0, io_types, injection).map_err(refused)?;
    Ok(json!(true))
}

fn resume_pending(control: &mut Control, params: Params<'_>) -> Outcome {
    let NameParams { name } = params::parse(params)?;
    control.resume_pending(&name.0)?;
    Ok(json!(true))
}
