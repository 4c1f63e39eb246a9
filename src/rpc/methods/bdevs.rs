//! Creating, deleting and listing bdevs.

use std::time::{Duration, Instant};

use bdev::malloc::MallocOptions;
use bdev::null::NullOptions;
use bdev::registry::describe;
use bdev::sg::SgOptions;
use bdev::uring::UringOptions;
use bdev::{Bdev, BdevError, Options};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{BUSY, CORE_SILENT, Method, NO_BDEV, NO_SUCH_BDEV, Outcome, change, limits, shared};
use crate::control::bdevs::{self, MakeError};
use crate::control::{Control, Desk, Refused};
use crate::rpc::change::{Changed, Undo};
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, BdevName, Bounded, Params};
use crate::rpc::schema::{Fails, Gives, Member, Rank, fails, gives, member, system_fails};

pub(super) const METHODS: [Method; 11] = [
    change("bdev_null_create", Rank::Bdevs, |desk, params| {
        Box::pin(create::<NullOptions>(desk, params))
    })
    .doc("Creates a bdev without data: writes are dropped, reads leave memory as it is.")
    .takes::<NullOptions>()
    .gives(NAME)
    .fails(&[BDEV_EXISTS])
    .example(r#"{"name":"Null9","num_blocks":2048,"block_size":512}"#),
    shared("bdev_null_delete", |desk, params| Box::pin(delete::<NullOptions>(desk, params)))
        .doc("Deletes a null bdev.")
        .takes::<NameParams>()
        .fails(&[NO_SUCH_BDEV, BDEV_IN_USE])
        .example(r#"{"name":"Null4"}"#),
    shared("bdev_null_resize", |desk, params| Box::pin(null_resize(desk, params)))
        .doc("Changes the size of a null bdev. Initiators are told.")
        .takes::<ResizeParams>()
        .fails(&[NO_SUCH_BDEV, CORE_SILENT, BUSY])
        .example(r#"{"name":"Null0","new_size":2}"#),
    change("bdev_malloc_create", Rank::Bdevs, |desk, params| {
        Box::pin(create::<MallocOptions>(desk, params))
    })
    .doc("Creates a bdev in memory. What it holds is lost with the target.")
    .takes::<MallocOptions>()
    .gives(NAME)
    .fails(&[BDEV_EXISTS, fails(Errno::NOMEM, "The memory is not there.")])
    .example(r#"{"name":"Malloc9","num_blocks":2048,"block_size":512}"#),
    shared("bdev_malloc_delete", |desk, params| Box::pin(delete::<MallocOptions>(desk, params)))
        .doc("Deletes a malloc bdev, and what it holds.")
        .takes::<NameParams>()
        .fails(&[NO_SUCH_BDEV, BDEV_IN_USE])
        .example(r#"{"name":"Malloc1"}"#),
    change("bdev_uring_create", Rank::Bdevs, |desk, params| {
        Box::pin(create::<UringOptions>(desk, params))
    })
    .doc("Creates a bdev of a regular file or block device.")
    .takes::<UringOptions>()
    .gives(NAME)
    .fails(&[
        BDEV_EXISTS,
        system_fails("The file or device could not be opened, locked or measured."),
    ])
    .example(r#"{"filename":"/srv/new.img","name":"Uring9"}"#),
    shared("bdev_uring_delete", |desk, params| Box::pin(delete::<UringOptions>(desk, params)))
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
    change("bdev_sg_create", Rank::Bdevs, |desk, params| {
        Box::pin(create::<SgOptions>(desk, params))
    })
    .doc("Creates a bdev of a SCSI device of this host, which is passed through.")
    .takes::<SgOptions>()
    .gives(NAME)
    .fails(&[BDEV_EXISTS, system_fails("The device could not be opened or asked.")])
    .example(r#"{"filename":"/dev/sg0","name":"Sg0"}"#),
    shared("bdev_sg_delete", |desk, params| Box::pin(delete::<SgOptions>(desk, params)))
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

/// Creates a bdev of any kind. What the parameters are is in the file of the kind.
pub(super) async fn create<O>(desk: &Desk, params: Params<'_>) -> Changed
where
    O: Options + DeserializeOwned,
{
    let bdev = bdevs::create(desk, params::parse::<O>(params)?).await?;
    let undo = Undo::Bdev { module: bdev.module(), name: bdev.name().to_owned() };
    tracing::info!("bdev {}: created, {}", bdev.name(), bdev.product_name());
    Ok((json!(bdev.name()), undo))
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

/// Deletes a bdev of the kind that such options make.
pub(super) async fn delete<O: Options>(desk: &Desk, params: Params<'_>) -> Outcome {
    let NameParams { name } = params::parse(params)?;
    bdevs::delete(desk, O::MODULE, &name.0).await?;
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
