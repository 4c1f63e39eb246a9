//! LUN maps.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Method, Outcome, Undo, change, locked};
use crate::control::{Control, MapRequest, Overrides};
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, BdevName, Bounded, Params, TargetName, Text};
use crate::shard::lun::LUN_MAX;

pub(super) const METHODS: [Method; 2] =
    [change("srpt_map_lun", map), locked("srpt_unmap_lun", unmap)];

type Lun = Bounded<0, { LUN_MAX as u64 }>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MapParams {
    target: TargetName,
    #[serde(default)]
    lun: Option<Lun>,
    bdev_name: BdevName,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    vendor: Option<Text<8>>,
    #[serde(default)]
    product: Option<Text<16>>,
    #[serde(default)]
    serial: Option<Text<36>>,
}

/// Answers the LUN: the given one, or the lowest that was free.
fn map(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let params: MapParams = params::parse(params)?;
    let request = MapRequest {
        target: params.target.0,
        lun: params.lun.map(|lun| lun.0 as u16),
        bdev_name: params.bdev_name.0,
        read_only: params.read_only,
        overrides: Overrides {
            vendor: params.vendor.map(|vendor| vendor.0),
            product: params.product.map(|product| product.0),
            serial: params.serial.map(|serial| serial.0),
        },
    };
    let lun = control.map_lun(&request)?;
    Ok((json!(lun), Undo::Lun { target: request.target, lun }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnmapParams {
    target: TargetName,
    lun: Lun,
}

fn unmap(control: &mut Control, params: Params<'_>) -> Outcome {
    let UnmapParams { target, lun } = params::parse(params)?;
    control.unmap_lun(&target.0, lun.0 as u16)?;
    Ok(json!(true))
}
