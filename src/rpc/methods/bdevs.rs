//! Creating, deleting and listing bdevs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bdev::Bdev;
use bdev::malloc::MallocOptions;
use bdev::null::NullOptions;
use bdev::registry::{BdevError, describe};
use bdev::sg::{SgOptions, TIMEOUT_MS_MAX};
use bdev::uring::{Direct, OnOff, UringOptions};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::neutral::{BlockSize, BlockSizeOr0, False, Zero};
use super::{Method, Outcome, Undo, change, limits, locked, shared};
use crate::control::{Control, Refused};
use crate::rpc::Shared;
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, BdevName, Bounded, Params};

pub(super) const METHODS: [Method; 11] = [
    change("bdev_null_create", null_create),
    locked("bdev_null_delete", |control, params| delete(control, "bdev_null_delete", params)),
    locked("bdev_null_resize", null_resize),
    change("bdev_malloc_create", malloc_create),
    locked("bdev_malloc_delete", |control, params| delete(control, "bdev_malloc_delete", params)),
    change("bdev_uring_create", uring_create),
    locked("bdev_uring_delete", |control, params| delete(control, "bdev_uring_delete", params)),
    locked("bdev_uring_rescan", uring_rescan),
    change("bdev_sg_create", sg_create),
    locked("bdev_sg_delete", |control, params| delete(control, "bdev_sg_delete", params)),
    shared("bdev_get_bdevs", list),
];

/// Blocks of a device: at most 2^63 bytes in the smallest blocks.
type Blocks = Bounded<1, { 1 << 54 }>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NullParams {
    name: BdevName,
    num_blocks: Blocks,
    block_size: BlockSize,
    #[serde(default)]
    physical_block_size: Option<BlockSize>,
    #[serde(default)]
    uuid: Option<Uuid>,
    #[serde(default)]
    dummy: bool,
    #[serde(default)]
    read_zero: bool,
    #[serde(default, rename = "md_size")]
    _md_size: Option<Zero>,
    #[serde(default, rename = "dif_type")]
    _dif_type: Option<Zero>,
    #[serde(default, rename = "dif_is_head_of_md")]
    _dif_is_head_of_md: Option<False>,
    #[serde(default, rename = "dif_pi_format")]
    _dif_pi_format: Option<Zero>,
    #[serde(default, rename = "preferred_write_granularity")]
    _preferred_write_granularity: Option<Zero>,
    #[serde(default, rename = "preferred_write_alignment")]
    _preferred_write_alignment: Option<Zero>,
    #[serde(default, rename = "optimal_write_size")]
    _optimal_write_size: Option<Zero>,
    #[serde(default, rename = "preferred_unmap_granularity")]
    _preferred_unmap_granularity: Option<Zero>,
    #[serde(default, rename = "preferred_unmap_alignment")]
    _preferred_unmap_alignment: Option<Zero>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MallocParams {
    #[serde(default)]
    name: Option<BdevName>,
    num_blocks: Blocks,
    block_size: BlockSize,
    #[serde(default)]
    physical_block_size: Option<BlockSize>,
    #[serde(default)]
    uuid: Option<Uuid>,
    #[serde(default, rename = "optimal_io_boundary")]
    _optimal_io_boundary: Option<Zero>,
    #[serde(default, rename = "md_size")]
    _md_size: Option<Zero>,
    #[serde(default, rename = "md_interleave")]
    _md_interleave: Option<False>,
    #[serde(default, rename = "dif_type")]
    _dif_type: Option<Zero>,
    #[serde(default, rename = "dif_is_head_of_md")]
    _dif_is_head_of_md: Option<False>,
    #[serde(default, rename = "dif_pi_format")]
    _dif_pi_format: Option<Zero>,
    #[serde(default)]
    numa_id: Option<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UringParams {
    #[serde(default)]
    name: Option<BdevName>,
    filename: String,
    /// 0 is SPDK's word for "choose".
    #[serde(default)]
    block_size: Option<BlockSizeOr0>,
    #[serde(default)]
    uuid: Option<Uuid>,
    #[serde(default, alias = "readonly")]
    read_only: bool,
    #[serde(default)]
    shared: bool,
    #[serde(default)]
    serial: Option<String>,
    #[serde(default)]
    direct: Direct,
    #[serde(default)]
    write_cache: Option<OnOff>,
    #[serde(default)]
    rotational: Option<bool>,
    #[serde(default)]
    sq_poll: bool,
    #[serde(default)]
    io_poll: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SgParams {
    #[serde(default)]
    name: Option<BdevName>,
    filename: String,
    #[serde(default)]
    timeout_ms: Option<Bounded<1, { TIMEOUT_MS_MAX as u64 }>>,
    #[serde(default)]
    uuid: Option<Uuid>,
}

/// Wrong values that only the device could see are parameter errors too.
pub(super) fn refused(error: BdevError) -> RpcError {
    match error {
        BdevError::Invalid(why) => RpcError::invalid_params(why),
        error => Refused::from(error).into(),
    }
}

pub(super) fn made(bdev: &Arc<dyn Bdev>) -> (Value, Undo) {
    let undo = Undo::Bdev { method: bdev.delete_method(), name: bdev.name().to_owned() };
    tracing::info!("bdev {}: created, {}", bdev.name(), bdev.product_name());
    (json!(bdev.name()), undo)
}

fn null_create(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let params: NullParams = params::parse(params)?;
    let options = NullOptions {
        name: Some(params.name.0),
        num_blocks: params.num_blocks.0,
        block_size: params.block_size.0,
        physical_block_size: params.physical_block_size.map(|size| size.0),
        uuid: params.uuid,
        dummy: params.dummy,
        read_zero: params.read_zero,
        other: Map::new(),
    };
    Ok(made(&control.bdevs_mut().create_null(options).map_err(refused)?))
}

fn malloc_create(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let params: MallocParams = params::parse(params)?;
    let options = MallocOptions {
        name: params.name.map(|name| name.0),
        num_blocks: params.num_blocks.0,
        block_size: params.block_size.0,
        physical_block_size: params.physical_block_size.map(|size| size.0),
        uuid: params.uuid,
        numa_id: params.numa_id,
        other: Map::new(),
    };
    Ok(made(&control.bdevs_mut().create_malloc(options).map_err(refused)?))
}

fn uring_create(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let params: UringParams = params::parse(params)?;
    let defaults = UringOptions::new(&params.filename);
    let options = UringOptions {
        name: params.name.map(|name| name.0),
        block_size: params.block_size.map(|size| size.0),
        uuid: params.uuid,
        read_only: params.read_only,
        shared: params.shared,
        serial: params.serial,
        sq_poll: params.sq_poll,
        io_poll: params.io_poll,
        direct: params.direct,
        write_cache: params.write_cache.unwrap_or(defaults.write_cache),
        rotational: params.rotational,
        ..defaults
    };
    Ok(made(&control.bdevs_mut().create_uring(options).map_err(refused)?))
}

fn sg_create(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let params: SgParams = params::parse(params)?;
    let options = SgOptions {
        name: params.name.map(|name| name.0),
        filename: params.filename,
        timeout_ms: params.timeout_ms.map(|ms| ms.0 as u32),
        uuid: params.uuid,
    };
    Ok(made(&control.bdevs_mut().create_sg(options).map_err(refused)?))
}

fn uring_rescan(control: &mut Control, params: Params<'_>) -> Outcome {
    let NameParams { name } = params::parse(params)?;
    let bdev = control.bdev(&name.0)?;
    if let Some(change) = control.bdevs().rescan_uring(&name.0).map_err(refused)? {
        control.medium_changed(bdev.name(), &change)?;
    }
    Ok(json!(true))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NameParams {
    pub(super) name: BdevName,
}

pub(super) fn delete(control: &mut Control, method: &str, params: Params<'_>) -> Outcome {
    let NameParams { name } = params::parse(params)?;
    control.delete_bdev(method, &name.0)?;
    Ok(json!(true))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeParams {
    name: BdevName,
    /// MiB, as in SPDK.
    new_size: Bounded<1, { 1 << 43 }>,
}

fn null_resize(control: &mut Control, params: Params<'_>) -> Outcome {
    let ResizeParams { name, new_size } = params::parse(params)?;
    let bdev = control.bdev(&name.0)?;
    let blocks = new_size.0.saturating_mul((1 << 20) / u64::from(bdev.geometry().block_bytes));
    control.bdevs().resize_null(&name.0, blocks).map_err(refused)?;
    control.capacity_changed(bdev.name())?;
    Ok(json!(true))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[serde(default)]
    name: Option<BdevName>,
    /// Milliseconds to wait for a bdev that does not exist yet; one day at most.
    #[serde(default)]
    timeout: Option<Bounded<0, 86_400_000>>,
}

fn shown(control: &Control, bdev: &dyn Bdev, claimed_by: Option<&str>) -> Value {
    let mut shown = describe(bdev, claimed_by);
    shown["assigned_rate_limits"] = limits::assigned(&control.rate_limits(bdev.name()));
    shown
}

fn list(on: &Shared, params: Params<'_>) -> Outcome {
    let ListParams { name, timeout } = params::parse(params)?;
    let Some(BdevName { 0: name }) = name else {
        let control = on.control();
        let all = control.bdevs().iter();
        return Ok(all.map(|(bdev, by)| shown(&control, bdev.as_ref(), by)).collect());
    };
    let look = |control: &mut Control| {
        let bdev = control.bdevs().find(&name).ok()?;
        let by = control.bdevs().claimed_by(bdev.name());
        Some(json!([shown(control, bdev.as_ref(), by)]))
    };
    let wait_ms = timeout.map_or(0, |timeout| timeout.0);
    let found = on.wait_for(Instant::now() + Duration::from_millis(wait_ms), look)?;
    found.ok_or_else(|| match wait_ms {
        0 => Refused::missing(format!("bdev {name}")).into(),
        _ => {
            let what = format!("bdev {name} did not appear within {wait_ms} ms");
            Refused::new(Errno::TIMEDOUT, what).into()
        }
    })
}
