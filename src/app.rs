//! Where everything is put together.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use anyhow::Context;
use bdev::registry::Registry;
use rustix::process::{getpid, kill_process};

use crate::config::Config;
use crate::control::{Control, Mailboxes, Parts};
use crate::logs::Logs;
use crate::rpc::{Server, Shared, load};
use crate::signals::StopRequest;

/// Runs the target until a signal asks it to stop. The configuration is loaded completely before
/// the RPC socket exists; an error means that nothing is left behind.
pub fn run(config: Config) -> anyhow::Result<()> {
    let logs = Logs::start(config.log_level);
    let stop = StopRequest::install().context("signals")?;
    let (_answers, receiver) = mpsc::channel();
    let mut control = Control::new(Parts {
        cores: Box::new(Mailboxes::new(Vec::new(), receiver)),
        stats: Vec::new(),
        bdevs: Registry::new(),
        host_id: host_id(),
        logs,
        raise: Box::new(|signal| kill_process(getpid(), signal)),
    });
    if let Some(file) = &config.config_file {
        load::load_file(&mut control, file)?;
    }
    let server = Server::start(&config.rpc_socket, Arc::new(Shared::new(control)))?;
    stop.wait();
    server.stop();
    Ok(())
}

/// What tells this host from others: the machine id, or else the host's name.
fn host_id() -> String {
    [Path::new("/etc/machine-id"), Path::new("/proc/sys/kernel/hostname")]
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|text| text.trim().to_owned())
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}
