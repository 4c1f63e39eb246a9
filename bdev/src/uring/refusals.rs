//! What the kernel took when a medium was opened, and refuses at run time.
//!
//! [`Refusals`] belongs to one open medium. A ring that meets a refusal notes it here and goes on
//! without what was refused, so no operation fails for it. Nothing is logged on a core: whoever
//! looks at the medium now and then asks for the news.
//!
//! An operation that goes well never comes here.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::io::Errno;

/// What a medium is used with and can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    /// A ring that polls: `sq_poll`, `io_poll`.
    Polling,
    /// The core's buffers as the ring knows them.
    RegisteredBuffers,
    /// No page cache between.
    Direct,
    /// Space that is given up.
    Unmap,
}

impl Extra {
    const ALL: [Extra; 4] = [Extra::Polling, Extra::RegisteredBuffers, Extra::Direct, Extra::Unmap];

    fn words(self) -> &'static str {
        match self {
            Extra::Polling => "polling",
            Extra::RegisteredBuffers => "registered buffers",
            Extra::Direct => "direct I/O",
            Extra::Unmap => "UNMAP",
        }
    }
}

/// The refusals of one open medium.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Of each [`Extra`] the error with which it was refused; 0: it was not.
    errnos: [AtomicI32; Extra::ALL.len()],
    /// Those that nobody has been told of, a bit each.
    news: AtomicU32,
}

impl Refusals {
    /// The kernel has refused this; the first error counts.
    #[cold]
    pub(super) fn note(&self, extra: Extra, errno: Errno) {
        let (at, raw) = (extra as usize, errno.raw_os_error());
        let first = self.errnos[at].compare_exchange(0, raw, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_ok() {
            self.news.fetch_or(1 << at, Ordering::Relaxed);
        }
    }

    /// Why this was refused, if it was.
    pub(super) fn why(&self, extra: Extra) -> Option<String> {
        let errno = self.errnos[extra as usize].load(Ordering::Relaxed);
        let errno = (errno != 0).then(|| Errno::from_raw_os_error(errno))?;
        Some(format!("the kernel refused it at run time: {errno}"))
    }

    /// True when this was refused.
    pub(super) fn has(&self, extra: Extra) -> bool {
        self.errnos[extra as usize].load(Ordering::Relaxed) != 0
    }

    /// Logs what has been refused since the last call; true if initiators see it. Never on a core.
    pub(super) fn tell(&self, name: &str) -> bool {
        let news = self.news.swap(0, Ordering::Relaxed);
        for extra in Extra::ALL.into_iter().filter(|extra| news & (1 << *extra as u32) != 0) {
            let why = self.why(extra).unwrap_or_default();
            tracing::warn!("bdev {name}: goes on without {}: {why}", extra.words());
        }
        news & (1 << Extra::Unmap as u32) != 0
    }
}
