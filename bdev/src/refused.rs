//! What refuses the making, finding, claiming or deleting of a device: the error of all of these,
//! and the sizes that a device can have.

use uuid::Uuid;

/// Why a device could not be made, found, claimed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum BdevError {
    /// The name is taken.
    #[error("bdev {name} already exists")]
    Exists {
        /// The name.
        name: String,
    },
    /// The identity is taken.
    #[error("uuid {uuid} already belongs to bdev {name}")]
    UuidTaken {
        /// The identity.
        uuid: Uuid,
        /// Whose it is.
        name: String,
    },
    /// No device of this name.
    #[error("bdev {name} does not exist")]
    NotFound {
        /// The name.
        name: String,
    },
    /// The device is of another kind than the method works on.
    #[error("bdev {name} is a {product}: {method} does not work on it")]
    WrongKind {
        /// The name.
        name: String,
        /// What it is.
        product: &'static str,
        /// The method that was called.
        method: String,
    },
    /// Somebody uses the device.
    #[error("bdev {name} is in use by {by}")]
    InUse {
        /// The name.
        name: String,
        /// The user.
        by: String,
    },
    /// A parameter is wrong; the text says which and why.
    #[error("{0}")]
    Invalid(String),
    /// The memory is not there.
    #[error("malloc bdev {name} needs {bytes} bytes, but only {available} bytes are available")]
    NoMemory {
        /// The name.
        name: String,
        /// Bytes needed.
        bytes: u64,
        /// Bytes that the system could give.
        available: u64,
    },
    /// Another process has the file or device.
    #[error("{filename} is in use by another process or bdev")]
    Locked {
        /// The file.
        filename: String,
    },
    /// The operating system refused.
    #[error("{what}: {errno}")]
    Os {
        /// The step that failed, with the file's name.
        what: String,
        /// The system's reason.
        errno: rustix::io::Errno,
    },
}

impl BdevError {
    /// The negative errno that a JSON-RPC answer carries as its code.
    pub fn errno(&self) -> i32 {
        let errno = match self {
            BdevError::Exists { .. } | BdevError::UuidTaken { .. } => libc::EEXIST,
            BdevError::NotFound { .. } | BdevError::WrongKind { .. } => libc::ENODEV,
            BdevError::InUse { .. } | BdevError::Locked { .. } => libc::EBUSY,
            BdevError::Invalid(_) => libc::EINVAL,
            BdevError::NoMemory { .. } => libc::ENOMEM,
            BdevError::Os { errno, .. } => errno.raw_os_error(),
        };
        -errno
    }
}

/// Size of a device and of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Bytes of a physical block.
    pub physical_bytes: u32,
}

/// Bytes that a device can have at most.
const DEVICE_BYTES_MAX: u64 = 1 << 63;

impl Shape {
    /// A shape that was asked for; a physical block that is absent or 0 bytes is as large as a
    /// logical one.
    ///
    /// Fails with [`BdevError::Invalid`] as [`Shape::check`] does.
    pub(crate) fn of(
        name: &str,
        blocks: u64,
        block_bytes: u32,
        physical: Option<u32>,
    ) -> Result<Shape, BdevError> {
        let physical_bytes = physical.filter(|bytes| *bytes != 0).unwrap_or(block_bytes);
        let shape = Shape { blocks, block_bytes, physical_bytes };
        shape.check(name)?;
        Ok(shape)
    }

    /// Fails with [`BdevError::Invalid`] unless all three go together.
    pub(crate) fn check(&self, name: &str) -> Result<(), BdevError> {
        let Shape { blocks, block_bytes, physical_bytes } = *self;
        check_block_bytes(name, block_bytes)?;
        if !physical_bytes.is_power_of_two() || physical_bytes < block_bytes {
            return Err(BdevError::Invalid(format!(
                "bdev {name}: physical_block_size {physical_bytes} is not block_size \
                 {block_bytes} times a power of two"
            )));
        }
        if blocks == 0 {
            return Err(BdevError::Invalid(format!("bdev {name}: num_blocks is 0")));
        }
        if blocks > DEVICE_BYTES_MAX / u64::from(block_bytes) {
            return Err(BdevError::Invalid(format!(
                "bdev {name}: {blocks} blocks of {block_bytes} bytes are more than 2^63 bytes"
            )));
        }
        Ok(())
    }

    /// Bytes in all, at most 2^63.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.block_bytes)
    }

    /// Logical blocks per physical block as a power of two.
    pub(crate) fn physical_exponent(&self) -> u8 {
        (self.physical_bytes / self.block_bytes).trailing_zeros() as u8
    }
}

/// Fails with [`BdevError::Invalid`] unless it is a power of two from 512 to 32768.
pub(crate) fn check_block_bytes(name: &str, block_bytes: u32) -> Result<(), BdevError> {
    if block_bytes.is_power_of_two() && (512..=32768).contains(&block_bytes) {
        return Ok(());
    }
    Err(BdevError::Invalid(format!(
        "bdev {name}: block_size {block_bytes} is not a power of two from 512 to 32768"
    )))
}
