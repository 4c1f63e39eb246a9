//! Bdevs over other bdevs: passthru, delay and error.

use std::sync::Arc;

use bdev::Bdev;
use bdev::delay::{DelayOptions, LATENCY_US_MAX, Latencies, LatencyType};
use bdev::error::{Corruption, ErrorOptions, Fault, Injection, IoType};
use bdev::passthru::PassthruOptions;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::bdevs::{NameParams, delete, made, refused};
use super::{Method, Outcome, Undo, change, locked};
use crate::control::Control;
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, BdevName, Bounded, Params};

pub(super) const METHODS: [Method; 9] = [
    change("bdev_passthru_create", passthru_create),
    locked("bdev_passthru_delete", |control, params| {
        delete(control, "bdev_passthru_delete", params)
    }),
    change("bdev_delay_create", delay_create),
    locked("bdev_delay_delete", |control, params| delete(control, "bdev_delay_delete", params)),
    locked("bdev_delay_update_latency", update_latency),
    change("bdev_error_create", error_create),
    locked("bdev_error_delete", |control, params| delete(control, "bdev_error_delete", params)),
    locked("bdev_error_inject_error", inject_error),
    locked("bdev_error_resume_pending", resume_pending),
];

/// Microseconds.
type LatencyUs = Bounded<0, LATENCY_US_MAX>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PassthruParams {
    base_bdev_name: BdevName,
    name: BdevName,
    #[serde(default)]
    uuid: Option<Uuid>,
}

fn passthru_create(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let PassthruParams { base_bdev_name, name, uuid } = params::parse(params)?;
    let options = PassthruOptions { name: name.0, base: free_base(control, base_bdev_name)?, uuid };
    Ok(made(&control.bdevs_mut().create_passthru(options).map_err(refused)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DelayParams {
    base_bdev_name: BdevName,
    name: BdevName,
    #[serde(default)]
    uuid: Option<Uuid>,
    avg_read_latency: LatencyUs,
    p99_read_latency: LatencyUs,
    avg_write_latency: LatencyUs,
    p99_write_latency: LatencyUs,
}

fn delay_create(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let params: DelayParams = params::parse(params)?;
    let options = DelayOptions {
        name: params.name.0,
        base: free_base(control, params.base_bdev_name)?,
        uuid: params.uuid,
        latencies: Latencies {
            avg_read_us: params.avg_read_latency.0,
            p99_read_us: params.p99_read_latency.0,
            avg_write_us: params.avg_write_latency.0,
            p99_write_us: params.p99_write_latency.0,
        },
    };
    Ok(made(&control.bdevs_mut().create_delay(options).map_err(refused)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateParams {
    delay_bdev_name: BdevName,
    latency_type: LatencyType,
    latency_us: LatencyUs,
}

fn update_latency(control: &mut Control, params: Params<'_>) -> Outcome {
    let UpdateParams { delay_bdev_name: name, latency_type, latency_us } = params::parse(params)?;
    let updated = control.bdevs().update_latency(&name.0, latency_type, latency_us.0);
    updated.map_err(refused)?;
    Ok(json!(true))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorParams {
    base_name: BdevName,
    #[serde(default)]
    uuid: Option<Uuid>,
}

/// Answers `true` and not the name, as SPDK does.
fn error_create(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let ErrorParams { base_name, uuid } = params::parse(params)?;
    let options = ErrorOptions { base: free_base(control, base_name)?, uuid };
    let bdev: Arc<dyn Bdev> = control.bdevs_mut().create_error(options).map_err(refused)?;
    let (_, undo) = made(&bdev);
    Ok((json!(true), undo))
}

/// A base that no LUN shows; whether another bdev has it, the registry knows.
fn free_base(control: &Control, base: BdevName) -> Result<String, RpcError> {
    control.refuse_mapped(control.bdev(&base.0)?.name())?;
    Ok(base.0)
}

#[derive(Deserialize, Clone, Copy)]
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

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum ErrorType {
    Failure,
    Pending,
    CorruptData,
    Nomem,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectParams {
    name: BdevName,
    io_type: Injected,
    error_type: ErrorType,
    /// How many operations; one when absent.
    #[serde(default)]
    num: Option<Bounded<0, { u32::MAX as u64 }>>,
    #[serde(default)]
    queue_depth: Option<u64>,
    #[serde(default)]
    corrupt_offset: Option<u64>,
    #[serde(default)]
    corrupt_value: Option<Bounded<1, 255>>,
}

impl InjectParams {
    fn fault(&self) -> Result<Fault, RpcError> {
        match (self.error_type, self.corrupt_value) {
            (ErrorType::Failure, _) => Ok(Fault::Failure),
            (ErrorType::Pending, _) => Ok(Fault::Pending),
            (ErrorType::CorruptData, Some(Bounded(value))) => {
                let offset = self.corrupt_offset.unwrap_or(0);
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
        queue_depth: params.queue_depth.unwrap_or(0),
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
