//! LUN maps.

use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{BUSY, CORE_SILENT, Method, Outcome, change, shared};
use crate::control::{Desk, MapRequest, Overrides};
use crate::rpc::change::{Changed, Undo};
use crate::rpc::params::{self, BdevName, Bounded, Params, TargetName, Text};
use crate::rpc::schema::{Rank, fails, gives};
use crate::shard::names::LUN_MAX;

pub(super) const METHODS: [Method; 2] = [
    change("srpt_map_lun", Rank::Luns, |desk, params| Box::pin(map(desk, params)))
        .doc("Shows a bdev to the initiators of a target.")
        .takes::<MapParams>()
        .gives(gives("integer", "The LUN."))
        .fails(&[
            fails(Errno::NODEV, "There is no such target or no such bdev."),
            fails(Errno::EXIST, "The LUN is taken, or the bdev is a LUN of this target already."),
            fails(Errno::BUSY, "A bdev uses the bdev, or the target is being deleted."),
            fails(Errno::INVAL, "The bdev has another vendor, product or serial already."),
            fails(Errno::NOSPC, "All LUNs of the target, or of all targets together, are in use."),
            fails(Errno::IO, "A core could not open the bdev."),
            CORE_SILENT,
            BUSY,
        ])
        .example(r#"{"target":"target0","bdev_name":"Malloc1"}"#),
    shared("srpt_unmap_lun", |desk, params| Box::pin(unmap(desk, params)))
        .doc("Takes a LUN away. Answers when its last command has ended.")
        .takes::<UnmapParams>()
        .fails(&[fails(Errno::NODEV, "There is no such target or no such LUN."), CORE_SILENT, BUSY])
        .example(r#"{"target":"target0","lun":7}"#),
];

type Lun = Bounded<0, { LUN_MAX as u64 }>;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MapParams {
    /// Name of the target.
    target: TargetName,
    /// LUN; the lowest free one if absent.
    #[serde(default)]
    lun: Option<Lun>,
    /// Name or UUID of the bdev.
    bdev_name: BdevName,
    /// Refuses writes.
    #[serde(default)]
    read_only: bool,
    /// T10 vendor identification that initiators see.
    #[serde(default)]
    vendor: Option<Text<8>>,
    /// Product identification that initiators see.
    #[serde(default)]
    product: Option<Text<16>>,
    /// Unit serial number that initiators see; that of the bdev if absent.
    #[serde(default)]
    serial: Option<Text<36>>,
}

/// Answers the LUN: the given one, or the lowest that was free.
async fn map(desk: &Desk, params: Params<'_>) -> Changed {
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
    let lun = desk.map_lun(&request).await?;
    Ok((json!(lun), Undo::Lun { target: request.target, lun }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnmapParams {
    /// Name of the target.
    target: TargetName,
    /// LUN.
    lun: Lun,
}

async fn unmap(desk: &Desk, params: Params<'_>) -> Outcome {
    let UnmapParams { target, lun } = params::parse(params)?;
    desk.unmap_lun(&target.0, lun.0 as u16).await?;
    Ok(json!(true))
}
