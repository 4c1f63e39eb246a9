//! Which cores this process may use, and pinning a thread to one.

use std::fs;
use std::io;

use rustix::thread::CpuSet;

use crate::cpumask::CoreSet;

/// Where the kernel lists the cores that are online.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Why a core can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AffinityError {
    /// The core is offline, or the process's affinity or cpuset excludes it.
    #[error(
        "core {core} is not available: online {}, allowed to this process {}",
        .available.online, .available.allowed
    )]
    Unavailable {
        /// The core.
        core: usize,
        /// The cores that may be used.
        available: Box<Available>,
    },
    /// The system did not say which cores there are.
    #[error("asking for the cores of this process: {0}")]
    Ask(rustix::io::Errno),
    /// The system refused to pin the thread.
    #[error("pinning a thread to core {core}: {source}")]
    Pin {
        /// The core.
        core: usize,
        /// The system's reason.
        source: io::Error,
    },
}

/// The cores that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// Cores online.
    pub online: CoreSet,
    /// Cores that the process may run on (its main thread's affinity, within its cpuset).
    pub allowed: CoreSet,
}

impl Available {
    /// Asks the system.
    pub fn now() -> Result<Self, AffinityError> {
        // The process's first thread, because the calling one may itself be pinned.
        let process = rustix::process::getpid();
        let mask = rustix::thread::sched_getaffinity(Some(process)).map_err(AffinityError::Ask)?;
        let allowed: CoreSet = (0..CpuSet::MAX_CPU).filter(|core| mask.is_set(*core)).collect();
        // Without /sys, the affinity mask is all there is to know.
        let online = fs::read_to_string(ONLINE)
            .ok()
            .and_then(|text| CoreSet::parse_list(&text).ok())
            .unwrap_or(allowed);
        Ok(Available { online, allowed })
    }

    /// Refuses the first core of `cores` that can't be used.
    pub fn check(&self, cores: &CoreSet) -> Result<(), AffinityError> {
        cores.iter().try_for_each(|core| self.check_core(core))
    }

    /// Refuses a core that can't be used, however large its number.
    pub fn check_core(&self, core: usize) -> Result<(), AffinityError> {
        if self.online.contains(core) && self.allowed.contains(core) {
            return Ok(());
        }
        Err(AffinityError::Unavailable { core, available: Box::new(*self) })
    }
}

/// Refuses cores that are offline or outside what this process may use.
pub fn check(cores: &CoreSet) -> Result<(), AffinityError> {
    Available::now()?.check(cores)
}

/// Refuses a core that is offline or outside what this process may use.
pub fn check_core(core: usize) -> Result<(), AffinityError> {
    Available::now()?.check_core(core)
}

/// Pins the calling thread to one core, after [`check_core`].
pub fn pin(core: usize) -> Result<(), AffinityError> {
    check_core(core)?;
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        return Ok(());
    }
    Err(AffinityError::Pin { core, source: io::Error::last_os_error() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> CoreSet {
        CoreSet::parse_list(list).unwrap()
    }

    #[test]
    fn a_refusal_names_the_core_and_what_there_is() {
        let available = Available { online: set("0-3"), allowed: set("0-1,5") };
        assert!(available.check(&set("0-1")).is_ok());
        assert!(available.check(&CoreSet::new()).is_ok());
        for (cores, core) in [("1-2", 2), ("0,5", 5), ("900", 900)] {
            let error = available.check(&set(cores)).unwrap_err().to_string();
            let expected =
                format!("core {core} is not available: online 0-3, allowed to this process 0-1,5");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_pinned_thread_runs_where_it_was_told() {
        let allowed = Available::now().unwrap().allowed;
        assert!(check(&allowed).is_ok());
        for core in allowed.iter().take(2) {
            let pinned = std::thread::spawn(move || {
                pin(core).unwrap();
                (rustix::thread::sched_getcpu(), Available::now().unwrap().allowed)
            });
            assert_eq!(pinned.join().unwrap(), (core, allowed));
        }
    }

    #[test]
    fn a_core_that_is_not_there() {
        let error = pin(1023).unwrap_err();
        assert!(matches!(error, AffinityError::Unavailable { core: 1023, .. }), "{error}");
        assert!(pin(usize::MAX).is_err());
    }
}
