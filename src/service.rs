//! What the service manager is told (`sd_notify(3)`): that the target is ready, that the target
//! stops, and, where the manager has a watchdog, that every core and the control thread go on.
//!
//! The manager names a datagram socket in `NOTIFY_SOCKET`; without that, nothing is told. A
//! datagram that can't be sent is left out: nobody waits for the manager. The crate `sd-notify` is
//! not used because its sends wait for the manager, and a stop of the target would wait with them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reactor::stats::CoreStats;

use crate::control::Post;

/// Looks at the threads in one time of the watchdog. A look that comes late still leaves time.
const LOOKS: u32 = 4;

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

/// What the environment says to a service.
#[derive(Debug, Default)]
struct Environment {
    notify_socket: Option<OsString>,
    watchdog_usec: Option<OsString>,
    watchdog_pid: Option<OsString>,
}

impl Manager {
    /// The manager that the process's environment names.
    ///
    /// # Errors
    ///
    /// `NOTIFY_SOCKET` is neither a path nor an abstract address, or there is no socket to be had.
    pub fn of_this_process() -> io::Result<Manager> {
        Manager::named_by(&Environment {
            notify_socket: std::env::var_os("NOTIFY_SOCKET"),
            watchdog_usec: std::env::var_os("WATCHDOG_USEC"),
            watchdog_pid: std::env::var_os("WATCHDOG_PID"),
        })
    }

    fn named_by(environment: &Environment) -> io::Result<Manager> {
        let number = |value: &Option<OsString>| value.as_ref()?.to_str()?.parse::<u64>().ok();
        let Some(name) = environment.notify_socket.as_deref().filter(|name| !name.is_empty())
        else {
            return Ok(Manager { socket: None, watchdog: None });
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let is_ours = environment.watchdog_pid.is_none()
            || number(&environment.watchdog_pid) == Some(u64::from(std::process::id()));
        let usec = number(&environment.watchdog_usec).filter(|usec| is_ours && *usec > 0);
        let watchdog = usec.map(Duration::from_micros);
        Ok(Manager { socket: Some((socket, address(name)?)), watchdog })
    }

    /// The target answers RPCs, and its configuration is loaded.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// The target stops.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// Between two looks at the threads; `None` if nobody wants to know.
    pub fn look_interval(&self) -> Option<Duration> {
        Some(self.watchdog? / LOOKS)
    }

    /// Everything that has to go on goes on.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    fn say(&self, words: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(words.as_bytes(), address) {
            tracing::warn!("the service manager was not told {words}: {error}");
        }
    }
}

/// A path, or behind `@` an abstract address.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => {
            let why = format!("NOTIFY_SOCKET: {name:?} is neither a path nor an abstract address");
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
    }
}

/// Whether all threads that must go on have gone on. A core that sleeps makes a turn every 100 ms.
pub struct Progress {
    cores: Vec<(usize, Arc<CoreStats>)>,
    post: Post,
    /// Answers of the control thread.
    answers: Arc<AtomicU64>,
    /// Steps of every core, and then of the control thread, at the last time when all had gone on.
    seen: Vec<u64>,
    /// Somebody has been named in the log since then.
    named: bool,
}

impl Progress {
    /// Looks at cores, with their processors, and at the control thread behind `post`.
    pub fn new(cores: Vec<(usize, Arc<CoreStats>)>, post: Post) -> Progress {
        let answers = Arc::default();
        let seen = vec![u64::MAX; cores.len() + 1];
        let progress = Progress { cores, post, answers, seen, named: false };
        progress.ask();
        progress
    }

    /// Asks the control thread for an answer, which a later look finds.
    fn ask(&self) {
        let answers = Arc::clone(&self.answers);
        let answered = move |()| {
            answers.fetch_add(1, Ordering::Relaxed);
        };
        self.post.begin(|_| async {}, answered);
    }

    /// True if all have gone on since the last look that said so. Logs the first that has not.
    pub fn look(&mut self) -> bool {
        let cores = self.cores.iter().map(|(_, stats)| stats.turns.value());
        let now: Vec<u64> = cores.chain([self.answers.load(Ordering::Relaxed)]).collect();
        let stands = stands_still(&self.seen, &now);
        match stands {
            None => {
                self.seen = now;
                self.named = false;
                self.ask();
            }
            Some(who) if !self.named => {
                self.named = true;
                let who = match self.cores.get(who) {
                    Some((cpu, _)) => format!("core {who} on processor {cpu}"),
                    None => "the control thread".to_owned(),
                };
                tracing::warn!("{who} has not gone on: the watchdog is not answered meanwhile");
            }
            Some(_) => {}
        }
        stands.is_none()
    }
}

/// The first that has made no step.
fn stands_still(before: &[u64], now: &[u64]) -> Option<usize> {
    before.iter().zip(now).position(|(before, now)| before == now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(socket: &str, usec: &str, pid: Option<u32>) -> io::Result<Manager> {
        Manager::named_by(&Environment {
            notify_socket: Some(socket.into()),
            watchdog_usec: Some(usec.into()),
            watchdog_pid: pid.map(|pid| pid.to_string().into()),
        })
    }

    #[test]
    fn a_manager_is_told_at_the_socket_that_the_environment_names() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("notify");
        let abstract_name = format!("srpt-notify-{}", std::process::id());
        let at_name = SocketAddr::from_abstract_name(&abstract_name).expect("an address");
        let ends = [
            (UnixDatagram::bind(&path), path.to_str().expect("a path").to_owned()),
            (UnixDatagram::bind_addr(&at_name), format!("@{abstract_name}")),
        ];
        for (end, name) in ends {
            let end = end.expect("a socket");
            let manager = manager(&name, "", None).expect("a manager");
            manager.ready();
            manager.alive();
            manager.stopping();
            for wanted in ["READY=1", "WATCHDOG=1", "STOPPING=1"] {
                let mut told = [0; 64];
                let length = end.recv(&mut told).expect("a datagram");
                assert_eq!(&told[..length], wanted.as_bytes(), "{name}");
            }
        }
    }

    #[test]
    fn nobody_is_told_without_a_socket_and_a_wrong_one_is_refused() {
        let none = Manager::named_by(&Environment::default()).expect("no manager");
        none.ready();
        assert_eq!(none.look_interval(), None);
        let error = manager("notify", "", None).expect_err("a relative path");
        assert!(error.to_string().contains("NOTIFY_SOCKET"), "{error}");
    }

    #[test]
    fn the_watchdog_is_that_of_this_process() {
        let interval = |usec, pid| manager("@x", usec, pid).expect("a manager").look_interval();
        assert_eq!(interval("4000000", None), Some(Duration::from_secs(1)));
        assert_eq!(interval("4000000", Some(std::process::id())), Some(Duration::from_secs(1)));
        assert_eq!(interval("4000000", Some(1)), None, "the watchdog of another process");
        assert_eq!(interval("0", None), None);
        assert_eq!(interval("soon", None), None);
    }

    #[test]
    fn who_has_made_no_step_is_named() {
        assert_eq!(stands_still(&[1, 2, 3], &[2, 3, 4]), None);
        assert_eq!(stands_still(&[1, 2, 3], &[2, 2, 4]), Some(1));
        assert_eq!(stands_still(&[1, 2, 3], &[2, 3, 3]), Some(2));
    }
}
