//! Creating, deleting and listing bdevs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bdev::malloc::MallocOptions;
use bdev::null::NullOptions;
use bdev::registry::{Registry, describe};
use bdev::sg::{SgOptions, TIMEOUT_MS_MAX};
use bdev::uring::{Direct, OnOff, UringOptions};
use bdev::values::{BlockSize, BlockSizeOr0, False, PathText, Signed, UuidText, Zero};
use bdev::{Bdev, BdevError};
use rustix::io::Errno;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    BUSY, CORE_SILENT, Changed, Method, NO_BDEV, NO_SUCH_BDEV, Outcome, Undo, change, limits,
    shared,
};
use crate::control::bdevs::{self, MakeError};
use crate::control::{Control, Desk, Refused};
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, BdevName, Bounded, Params, Text};
use crate::rpc::schema::{Fails, Gives, Member, Rank, fails, gives, member, system_fails};

pub(super) const METHODS: [Method; 11] = [
    change("bdev_null_create", Rank::Bdevs, |desk, params| Box::pin(null_create(desk, params)))
        .doc("Creates a bdev without data: writes are dropped, reads leave memory as it is.")
        .takes::<NullParams>()
        .gives(NAME)
        .fails(&[BDEV_EXISTS])
        .example(r#"{"name":"Null9","num_blocks":2048,"block_size":512}"#),
    shared("bdev_null_delete", |desk, params| Box::pin(delete(desk, "bdev_null_delete", params)))
        .doc("Deletes a null bdev.")
        .takes::<NameParams>()
        .fails(&[NO_SUCH_BDEV, BDEV_IN_USE])
        .example(r#"{"name":"Null4"}"#),
    shared("bdev_null_resize", |desk, params| Box::pin(null_resize(desk, params)))
        .doc("Changes the size of a null bdev. Initiators are told.")
        .takes::<ResizeParams>()
        .fails(&[NO_SUCH_BDEV, CORE_SILENT, BUSY])
        .example(r#"{"name":"Null0","new_size":2}"#),
    change("bdev_malloc_create", Rank::Bdevs, |desk, params| Box::pin(malloc_create(desk, params)))
        .doc("Creates a bdev in memory. What it holds is lost with the target.")
        .takes::<MallocParams>()
        .gives(NAME)
        .fails(&[BDEV_EXISTS, fails(Errno::NOMEM, "The memory is not there.")])
        .example(r#"{"name":"Malloc9","num_blocks":2048,"block_size":512}"#),
    shared("bdev_malloc_delete", |desk, params| {
        Box::pin(delete(desk, "bdev_malloc_delete", params))
    })
    .doc("Deletes a malloc bdev, and what it holds.")
    .takes::<NameParams>()
    .fails(&[NO_SUCH_BDEV, BDEV_IN_USE])
    .example(r#"{"name":"Malloc1"}"#),
    change("bdev_uring_create", Rank::Bdevs, |desk, params| Box::pin(uring_create(desk, params)))
        .doc("Creates a bdev of a regular file or block device.")
        .takes::<UringParams>()
        .gives(NAME)
        .fails(&[
            BDEV_EXISTS,
            system_fails("The file or device could not be opened, locked or measured."),
        ])
        .example(r#"{"filename":"/srv/new.img","name":"Uring9"}"#),
    shared("bdev_uring_delete", |desk, params| Box::pin(delete(desk, "bdev_uring_delete", params)))
        .doc("Deletes a uring bdev. The file or device stays as it is.")
        .takes::<NameParams>()
        .fails(&[NO_SUCH_BDEV, BDEV_IN_USE])
        .example(r#"{"name":"Uring0"}"#),
    shared("bdev_uring_rescan", |desk, params| Box::pin(uring_rescan(desk, params)))
        .doc("Looks at the size of a file or block device again. Initiators are told of a new one.")
        .takes::<NameParams>()
        .fails(&[
            NO_SUCH_BDEV,
            CORE_SILENT,
            BUSY,
            system_fails("The file or device could not be looked at."),
        ])
        .example(r#"{"name":"Uring0"}"#),
    change("bdev_sg_create", Rank::Bdevs, |desk, params| Box::pin(sg_create(desk, params)))
        .doc("Creates a bdev of a SCSI device of this host, which is passed through.")
        .takes::<SgParams>()
        .gives(NAME)
        .fails(&[BDEV_EXISTS, system_fails("The device could not be opened or asked.")])
        .example(r#"{"filename":"/dev/sg0","name":"Sg0"}"#),
    shared("bdev_sg_delete", |desk, params| Box::pin(delete(desk, "bdev_sg_delete", params)))
        .doc("Deletes an sg bdev. The SCSI device stays as it is.")
        .takes::<NameParams>()
        .fails(&[NO_SUCH_BDEV, BDEV_IN_USE])
        .example(r#"{"name":"Sg0"}"#),
    shared("bdev_get_bdevs", |desk, params| Box::pin(list(desk, params)))
        .doc("Shows all bdevs, or one.")
        .takes::<ListParams>()
        .gives(gives("array", "The bdevs.").of(BDEV))
        .fails(&[
            NO_BDEV,
            fails(Errno::TIMEDOUT, "The bdev did not appear in time."),
            fails(
                Errno::BUSY,
                "The bdev is being opened or closed; too many requests wait already.",
            ),
        ])
        .example(r#"{"name":"Null0"}"#),
];

/// What a method that creates a bdev answers.
pub(super) const NAME: Gives = gives("string", "Name of the bdev.");
/// Of methods that create a bdev.
pub(super) const BDEV_EXISTS: Fails = fails(Errno::EXIST, "The name or the UUID is taken.");
/// Of methods that need a bdev for themselves.
pub(super) const BDEV_IN_USE: Fails =
    fails(Errno::BUSY, "A LUN shows the bdev, a bdev uses it, or it is busy.");

const BDEV: &[Member] = &[
    member("[].name", "string", "Name of the bdev."),
    member("[].aliases", "array", "Other names: the UUID."),
    member("[].product_name", "string", "Kind of the bdev."),
    member("[].block_size", "integer", "Bytes of a logical block."),
    member("[].num_blocks", "integer", "Number of logical blocks."),
    member("[].preferred_write_alignment", "integer", "Always 0."),
    member("[].preferred_write_granularity", "integer", "Always 0."),
    member("[].optimal_write_size", "integer", "Always 0."),
    member("[].preferred_unmap_alignment", "integer", "Always 0."),
    member("[].preferred_unmap_granularity", "integer", "Always 0."),
    member("[].uuid", "string", "Identity."),
    member("[].numa_id", "integer", "Memory node; malloc bdevs only."),
    member("[].assigned_rate_limits", "object", "Limits of bdev_set_qos_limit; 0: no limit."),
    member("[].assigned_rate_limits.rw_ios_per_sec", "integer", "Reads and writes per second."),
    member("[].assigned_rate_limits.rw_mbytes_per_sec", "integer", "MiB per second."),
    member("[].assigned_rate_limits.r_mbytes_per_sec", "integer", "MiB read per second."),
    member("[].assigned_rate_limits.w_mbytes_per_sec", "integer", "MiB written per second."),
    member("[].claimed", "boolean", "A LUN shows the bdev, or a bdev uses it."),
    member("[].claim_type", "string", "How it is used, if it is."),
    member("[].busy", "string", "What is done with it, and for how long, if anything is."),
    member("[].zoned", "boolean", "Always false."),
    member("[].supported_io_types", "object", "What the bdev can do."),
    member("[].supported_io_types.*", "boolean", "True: it can do this."),
    member("[].driver_specific", "object", "What only its kind has."),
];

/// Blocks of a device: at most 2^63 bytes in the smallest blocks.
type Blocks = Bounded<1, { 1 << 54 }>;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NullParams {
    /// Name of the new bdev.
    name: BdevName,
    /// Size; at most 2^63 bytes.
    #[schemars(extend("x-unit" = "blocks"))]
    num_blocks: Blocks,
    /// Size of a logical block.
    block_size: BlockSize,
    /// Size of a physical block, which initiators are told; that of a logical block if absent.
    #[serde(default)]
    physical_block_size: Option<BlockSize>,
    /// Identity; derived from host and name if absent.
    #[serde(default)]
    uuid: Option<UuidText>,
    /// Shows initiators a logical unit that is not connected.
    #[serde(default)]
    dummy: bool,
    /// Reads fill memory with zeros.
    #[serde(default)]
    read_zero: bool,
    /// Metadata is not supported.
    #[serde(default, rename = "md_size")]
    _md_size: Option<Zero>,
    /// Protection information is not supported.
    #[serde(default, rename = "dif_type")]
    _dif_type: Option<Zero>,
    /// Protection information is not supported.
    #[serde(default, rename = "dif_is_head_of_md")]
    _dif_is_head_of_md: Option<False>,
    /// Protection information is not supported.
    #[serde(default, rename = "dif_pi_format")]
    _dif_pi_format: Option<Zero>,
    /// Preferences of access are not supported.
    #[serde(default, rename = "preferred_write_granularity")]
    _preferred_write_granularity: Option<Zero>,
    /// Preferences of access are not supported.
    #[serde(default, rename = "preferred_write_alignment")]
    _preferred_write_alignment: Option<Zero>,
    /// Preferences of access are not supported.
    #[serde(default, rename = "optimal_write_size")]
    _optimal_write_size: Option<Zero>,
    /// Preferences of access are not supported.
    #[serde(default, rename = "preferred_unmap_granularity")]
    _preferred_unmap_granularity: Option<Zero>,
    /// Preferences of access are not supported.
    #[serde(default, rename = "preferred_unmap_alignment")]
    _preferred_unmap_alignment: Option<Zero>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MallocParams {
    /// Name of the new bdev; the first free of Malloc0, Malloc1 and so on if absent.
    #[serde(default)]
    name: Option<BdevName>,
    /// Size; at most 2^63 bytes.
    #[schemars(extend("x-unit" = "blocks"))]
    num_blocks: Blocks,
    /// Size of a logical block.
    block_size: BlockSize,
    /// Size of a physical block, which initiators are told; that of a logical block if absent.
    #[serde(default)]
    physical_block_size: Option<BlockSize>,
    /// Identity; derived from host and name if absent.
    #[serde(default)]
    uuid: Option<UuidText>,
    /// I/O boundaries are not supported.
    #[serde(default, rename = "optimal_io_boundary")]
    _optimal_io_boundary: Option<Zero>,
    /// Metadata is not supported.
    #[serde(default, rename = "md_size")]
    _md_size: Option<Zero>,
    /// Metadata is not supported.
    #[serde(default, rename = "md_interleave")]
    _md_interleave: Option<False>,
    /// Protection information is not supported.
    #[serde(default, rename = "dif_type")]
    _dif_type: Option<Zero>,
    /// Protection information is not supported.
    #[serde(default, rename = "dif_is_head_of_md")]
    _dif_is_head_of_md: Option<False>,
    /// Protection information is not supported.
    #[serde(default, rename = "dif_pi_format")]
    _dif_pi_format: Option<Zero>,
    /// Memory node to prefer, one of this machine's; -1 or absent: any.
    #[serde(default)]
    numa_id: Option<Signed<-1, { i32::MAX as i64 }>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UringParams {
    /// Name of the new bdev; the first free of Uring0, Uring1 and so on if absent.
    #[serde(default)]
    name: Option<BdevName>,
    /// Path of the file or block device.
    filename: PathText,
    /// Size of a logical block; 0 or absent: that of the block device, 512 for a file.
    #[serde(default)]
    block_size: Option<BlockSizeOr0>,
    /// Identity; derived from host and name if absent.
    #[serde(default)]
    uuid: Option<UuidText>,
    /// Refuses writes, and lets others read the file meanwhile.
    #[serde(default, alias = "readonly")]
    #[schemars(extend("x-aliases" = ["readonly"]))]
    read_only: bool,
    /// Lets others that say so too write the file meanwhile.
    #[serde(default)]
    shared: bool,
    /// Serial number that initiators see; the UUID if absent.
    #[serde(default)]
    serial: Option<Text<36>>,
    /// Bypasses the page cache: `auto` where that is possible, `on` or else the bdev is not
    /// created, `off` never.
    #[serde(default)]
    #[schemars(schema_with = "direct")]
    direct: Direct,
    /// `off` puts every write on stable storage; `on` if absent. A boolean will do, too.
    #[serde(default)]
    #[schemars(schema_with = "on_off")]
    write_cache: Option<OnOff>,
    /// A spinning disk; if absent, what the system says of a block device, false for a file.
    #[serde(default)]
    rotational: Option<bool>,
    /// A kernel thread per core takes submissions, without system calls.
    #[serde(default)]
    sq_poll: bool,
    /// Polls the device for the ends of reads and writes; needs direct I/O and a driver with poll
    /// queues.
    #[serde(default)]
    io_poll: bool,
}

fn direct(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["auto", "on", "off"], "default": "auto" })
}

fn on_off(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "boolean", "null"], "enum": ["on", "off", true, false] })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SgParams {
    /// Name of the new bdev; the first free of Sg0, Sg1 and so on if absent.
    #[serde(default)]
    name: Option<BdevName>,
    /// Any node of the device: `/dev/sgN`, `/dev/sdX`, `/dev/stN`.
    filename: PathText,
    /// Time after which an ordinary command is given up; 60000 for a disk and 900000 for any
    /// other device if absent.
    #[serde(default)]
    #[schemars(extend("x-unit" = "ms"))]
    timeout_ms: Option<Bounded<1, { TIMEOUT_MS_MAX as u64 }>>,
    /// Identity; derived from host and name if absent.
    #[serde(default)]
    uuid: Option<UuidText>,
}

/// Wrong values that only the device could see are parameter errors too.
impl From<MakeError> for RpcError {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Bdev(BdevError::Invalid(why)) => RpcError::invalid_params(why),
            MakeError::Bdev(error) => Refused::from(error).into(),
            MakeError::Refused(refused) => refused.into(),
        }
    }
}

pub(super) fn made(bdev: &Arc<dyn Bdev>) -> (Value, Undo) {
    let undo = Undo::Bdev { method: bdev.delete_method(), name: bdev.name().to_owned() };
    tracing::info!("bdev {}: created, {}", bdev.name(), bdev.product_name());
    (json!(bdev.name()), undo)
}

async fn null_create(desk: &Desk, params: Params<'_>) -> Changed {
    let params: NullParams = params::parse(params)?;
    let options = NullOptions {
        name: Some(params.name.0),
        num_blocks: params.num_blocks.0,
        block_size: params.block_size.0,
        physical_block_size: params.physical_block_size.map(|size| size.0),
        uuid: params.uuid.map(|uuid| uuid.0),
        dummy: params.dummy,
        read_zero: params.read_zero,
        other: Map::new(),
    };
    let name = options.name.clone();
    let make = |control: &mut Control| Ok(control.bdevs_mut().create_null(options)?);
    Ok(made(&bdevs::make(desk, name.as_deref(), make).await?))
}

async fn malloc_create(desk: &Desk, params: Params<'_>) -> Changed {
    let params: MallocParams = params::parse(params)?;
    let options = MallocOptions {
        name: params.name.map(|name| name.0),
        num_blocks: params.num_blocks.0,
        block_size: params.block_size.0,
        physical_block_size: params.physical_block_size.map(|size| size.0),
        uuid: params.uuid.map(|uuid| uuid.0),
        numa_id: params.numa_id.map(|node| node.0 as i32),
        other: Map::new(),
    };
    let name = options.name.clone();
    let make = |control: &mut Control| Ok(control.bdevs_mut().create_malloc(options)?);
    Ok(made(&bdevs::make(desk, name.as_deref(), make).await?))
}

async fn uring_create(desk: &Desk, params: Params<'_>) -> Changed {
    let params: UringParams = params::parse(params)?;
    let defaults = UringOptions::new(&params.filename.0);
    let options = UringOptions {
        name: params.name.map(|name| name.0),
        block_size: params.block_size.map(|size| size.0),
        uuid: params.uuid.map(|uuid| uuid.0),
        read_only: params.read_only,
        shared: params.shared,
        serial: params.serial.map(|serial| serial.0),
        sq_poll: params.sq_poll,
        io_poll: params.io_poll,
        direct: params.direct,
        write_cache: params.write_cache.unwrap_or(defaults.write_cache),
        rotational: params.rotational,
        ..defaults
    };
    let name = options.name.clone();
    let prepare = |registry: &mut Registry| registry.prepare_uring(options);
    Ok(made(&bdevs::open(desk, name.as_deref(), prepare).await?))
}

async fn sg_create(desk: &Desk, params: Params<'_>) -> Changed {
    let params: SgParams = params::parse(params)?;
    let options = SgOptions {
        name: params.name.map(|name| name.0),
        filename: params.filename.0,
        timeout_ms: params.timeout_ms.map(|ms| ms.0 as u32),
        uuid: params.uuid.map(|uuid| uuid.0),
    };
    let name = options.name.clone();
    let prepare = |registry: &mut Registry| registry.prepare_sg(options);
    Ok(made(&bdevs::open(desk, name.as_deref(), prepare).await?))
}

async fn uring_rescan(desk: &Desk, params: Params<'_>) -> Outcome {
    let NameParams { name } = params::parse(params)?;
    bdevs::rescan_uring(desk, &name.0).await?;
    Ok(json!(true))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NameParams {
    /// Name or UUID of the bdev.
    pub(super) name: BdevName,
}

pub(super) async fn delete(desk: &Desk, method: &str, params: Params<'_>) -> Outcome {
    let NameParams { name } = params::parse(params)?;
    bdevs::delete(desk, method, &name.0).await?;
    Ok(json!(true))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ResizeParams {
    /// Name or UUID of the bdev.
    name: BdevName,
    /// The new size.
    #[schemars(extend("x-unit" = "MiB"))]
    new_size: Bounded<1, { 1 << 43 }>,
}

async fn null_resize(desk: &Desk, params: Params<'_>) -> Outcome {
    let ResizeParams { name, new_size } = params::parse(params)?;
    let blocks = |block_bytes| new_size.0.saturating_mul((1 << 20) / u64::from(block_bytes));
    bdevs::resize_null(desk, &name.0, blocks).await?;
    Ok(json!(true))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Shows only the bdev of this name or UUID.
    #[serde(default)]
    name: Option<BdevName>,
    /// How long to wait for a bdev that does not exist yet; 0 if absent.
    #[serde(default)]
    #[schemars(extend("x-unit" = "ms"))]
    timeout: Option<Bounded<0, 86_400_000>>,
}

fn shown(control: &Control, bdev: &dyn Bdev, claimed_by: Option<&str>) -> Value {
    let mut shown = describe(bdev, claimed_by);
    shown["assigned_rate_limits"] = limits::assigned(&control.rate_limits(bdev.name()));
    shown
}

/// A bdev that an operation is under way at says so in `busy`; one that does not exist yet, or no
/// longer, is refused with what is done under its name.
async fn list(desk: &Desk, params: Params<'_>) -> Outcome {
    let ListParams { name, timeout } = params::parse(params)?;
    let Some(BdevName { 0: name }) = name else {
        return Ok(desk.with(|control| {
            let all = control.bdevs().iter();
            all.map(|(bdev, by)| shown(control, bdev.as_ref(), by)).collect()
        }));
    };
    let look = |control: &mut Control| {
        let bdev = control.bdevs().find(&name).ok()?;
        let by = control.bdevs().claimed_by(bdev.name());
        Some(shown(control, bdev.as_ref(), by))
    };
    let wait_ms = timeout.map_or(0, |timeout| timeout.0);
    let found = desk.wait_for(Instant::now() + Duration::from_millis(wait_ms), look).await?;
    match (found, desk.bdev_is_busy(&name)) {
        (Some(mut bdev), busy) => {
            if let Some(busy) = busy {
                bdev["busy"] = json!(busy);
            }
            Ok(json!([bdev]))
        }
        (None, Some(busy)) => Err(Refused::busy(format!("bdev {name} is busy: {busy}")).into()),
        (None, None) if wait_ms == 0 => Err(Refused::missing(format!("bdev {name}")).into()),
        (None, None) => {
            let what = format!("bdev {name} did not appear within {wait_ms} ms");
            Err(Refused::new(Errno::TIMEDOUT, what).into())
        }
    }
}
