//! The functions of libibverbs and librdmacm, found at run time.
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::abi::*;

/// Why RDMA can't be used on this machine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LibraryError {
    /// A shared library or one of its functions is missing.
    #[error("RDMA needs {library} (Debian: {package}): {reason}")]
    Missing {
        /// File name.
        library: &'static str,
        /// The Debian package that has it.
        package: &'static str,
        /// The loader's words.
        reason: String,
    },
}

macro_rules! functions {
    (
        $(#[$doc:meta])*
        $table:ident { $($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)* }
    ) => {
        $(#[$doc])*
        pub(in crate::rdma) struct $table {
            $(pub(in crate::rdma) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl $table {
            fn load(library: &Library) -> Result<Self, libloading::Error> {
                Ok($table {
                    // SAFETY: the signatures are those of the library's header; the library is
                    // never unloaded, so the addresses stay good.
                    $($name: unsafe {
                        *library.get(concat!(stringify!($name), "\0").as_bytes())?
                    },)*
                })
            }
        }
    };
}

functions! {
    /// `libibverbs.so.1`.
    Ibverbs {
        ibv_query_device: fn(*mut ibv_context, *mut ibv_device_attr) -> c_int;
        ibv_alloc_pd: fn(*mut ibv_context) -> *mut ibv_pd;
        ibv_dealloc_pd: fn(*mut ibv_pd) -> c_int;
        ibv_reg_mr: fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
        ibv_dereg_mr: fn(*mut ibv_mr) -> c_int;
        ibv_create_comp_channel: fn(*mut ibv_context) -> *mut ibv_comp_channel;
        ibv_destroy_comp_channel: fn(*mut ibv_comp_channel) -> c_int;
        ibv_create_cq: fn(
            *mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int
        ) -> *mut ibv_cq;
        ibv_destroy_cq: fn(*mut ibv_cq) -> c_int;
        ibv_get_cq_event: fn(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
        ibv_ack_cq_events: fn(*mut ibv_cq, std::ffi::c_uint);
        ibv_create_srq: fn(*mut ibv_pd, *mut ibv_srq_init_attr) -> *mut ibv_srq;
        ibv_destroy_srq: fn(*mut ibv_srq) -> c_int;
    }
}

functions! {
    /// `librdmacm.so.1`.
    Rdmacm {
        rdma_create_event_channel: fn() -> *mut rdma_event_channel;
        rdma_destroy_event_channel: fn(*mut rdma_event_channel);
        rdma_create_id: fn(
            *mut rdma_event_channel, *mut *mut rdma_cm_id, *mut c_void, c_int
        ) -> c_int;
        rdma_destroy_id: fn(*mut rdma_cm_id) -> c_int;
        rdma_set_option: fn(*mut rdma_cm_id, c_int, c_int, *mut c_void, usize) -> c_int;
        rdma_bind_addr: fn(*mut rdma_cm_id, *mut libc::sockaddr) -> c_int;
        rdma_listen: fn(*mut rdma_cm_id, c_int) -> c_int;
        rdma_resolve_addr: fn(
            *mut rdma_cm_id, *mut libc::sockaddr, *mut libc::sockaddr, c_int
        ) -> c_int;
        rdma_resolve_route: fn(*mut rdma_cm_id, c_int) -> c_int;
        rdma_create_qp: fn(*mut rdma_cm_id, *mut ibv_pd, *mut ibv_qp_init_attr) -> c_int;
        rdma_destroy_qp: fn(*mut rdma_cm_id);
        rdma_connect: fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
        rdma_accept: fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
        rdma_reject: fn(*mut rdma_cm_id, *const c_void, u8) -> c_int;
        rdma_disconnect: fn(*mut rdma_cm_id) -> c_int;
        rdma_get_cm_event: fn(*mut rdma_event_channel, *mut *mut rdma_cm_event) -> c_int;
        rdma_ack_cm_event: fn(*mut rdma_cm_event) -> c_int;
        rdma_get_devices: fn(*mut c_int) -> *mut *mut ibv_context;
        rdma_free_devices: fn(*mut *mut ibv_context);
    }
}

/// Both libraries. Having one tells you that every function in it is callable for the life of the
/// process.
pub(crate) struct Rdma {
    /// Verbs.
    pub verbs: Ibverbs,
    /// Connection management.
    pub cm: Rdmacm,
}

/// The libraries, opened at the first call.
pub(crate) fn rdma() -> Result<&'static Rdma, LibraryError> {
    static RDMA: OnceLock<Result<Rdma, LibraryError>> = OnceLock::new();
    RDMA.get_or_init(|| {
        let verbs = open("libibverbs.so.1", "libibverbs1", Ibverbs::load)?;
        let cm = open("librdmacm.so.1", "librdmacm1", Rdmacm::load)?;
        Ok(Rdma { verbs, cm })
    })
    .as_ref()
    .map_err(Clone::clone)
}

fn open<T>(
    library: &'static str,
    package: &'static str,
    load: fn(&Library) -> Result<T, libloading::Error>,
) -> Result<T, LibraryError> {
    let missing = |error: libloading::Error| LibraryError::Missing {
        library,
        package,
        reason: error.to_string(),
    };
    // SAFETY: the libraries' constructors have no requirements. Global, because the providers that
    // libibverbs loads later look for its symbols.
    let opened =
        unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) }.map_err(missing)?;
    let table = load(&opened).map_err(missing)?;
    // Never unloaded: the table points into it.
    std::mem::forget(opened);
    Ok(table)
}
