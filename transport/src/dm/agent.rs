//! The agent: a thread that answers what one port receives.
use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::datagram::{CLASS, CLASS_VERSION, DATAGRAM_BYTES, GET, Hardware, SET, Unit};
use super::sys;
use crate::control_thread::{Bell, ControlThread, Inbox, Order};
use crate::peer_lines::{PeerLines, peer_line};

/// Bytes of `struct ib_user_mad_hdr` in front of a datagram.
const HEADER_BYTES: usize = 64;
const PACKET_BYTES: usize = HEADER_BYTES + DATAGRAM_BYTES;
/// The Q_Key of every queue pair 1.
const QKEY: u32 = 0x8001_0000;

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is no such port, or no user MAD device for it.
    #[error("{device} port {port}: no user MAD device (is the module ib_umad loaded?)")]
    NotFound {
        /// The RDMA device.
        device: String,
        /// Its port.
        port: u32,
    },
    /// The system refused.
    #[error("{what}: {reason}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        reason: Errno,
    },
}

/// Answers device management datagrams of one port. Dropping it ends that.
#[derive(Debug)]
pub struct Agent {
    answered: Arc<AtomicU64>,
    _thread: ControlThread<Infallible>,
}

impl Agent {
    /// Starts answering at a port, counted from 1, of an RDMA device such as `mlx5_0`. `unit` is
    /// what it shows, at the moment of each question.
    pub fn start(device: &str, port: u32, unit: Arc<Mutex<Unit>>) -> Result<Agent, AgentError> {
        let name = umad_of(Path::new("/sys/class/infiniband_mad"), device, port)
            .ok_or_else(|| AgentError::NotFound { device: device.to_owned(), port })?;
        let path = Path::new("/dev/infiniband").join(name);
        let failed = |what: String| |reason| AgentError::System { what, reason };
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let umad = opened.map_err(|error| {
            let reason = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            AgentError::System { what: format!("opening {}", path.display()), reason }
        })?;
        let shown = path.display();
        sys::enable_pkey(umad.as_fd()).map_err(failed(format!("{shown}: P_Key index")))?;
        let agent = sys::register(umad.as_fd(), CLASS, CLASS_VERSION, 1 << GET | 1 << SET)
            .map_err(failed(format!("{shown}: registering for device management")))?;
        let bell = Bell::new().map_err(failed("an event counter".to_owned()))?;
        let answered = Arc::new(AtomicU64::new(0));
        let hardware = hardware_of(&Path::new("/sys/class/infiniband").join(device));
        let (stop, count) = (bell.clone(), Arc::clone(&answered));
        let run = move |inbox: Inbox<Infallible>| {
            serve(umad, (&stop, &inbox), agent, &hardware, &unit, &count);
        };
        let thread = ControlThread::start("dm-agent", bell, run);
        let thread = thread.map_err(failed("starting a thread".to_owned()))?;
        Ok(Agent { answered, _thread: thread })
    }

    /// Datagrams answered since the start.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

fn serve(
    mut umad: File,
    (bell, inbox): (&Bell, &Inbox<Infallible>),
    agent: u32,
    hardware: &Hardware,
    unit: &Mutex<Unit>,
    answered: &AtomicU64,
) {
    let mut lines = PeerLines::default();
    while inbox.next() != Some(Order::Stop) {
        let mut ready = [PollFd::new(bell, PollFlags::IN), PollFd::new(&umad, PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return tracing::error!(%errno, "the device management agent ends"),
        }
        bell.hush();
        if !ready[1].revents().contains(PollFlags::IN) {
            if ready[1].revents().is_empty() {
                continue;
            }
            return tracing::warn!("the device of a device management agent is gone");
        }
        let mut packet = [0; PACKET_BYTES];
        match umad.read(&mut packet) {
            Ok(PACKET_BYTES) => {}
            Ok(_) => continue,
            Err(error) => return tracing::warn!(%error, "a device management agent ends"),
        }
        let answer = {
            let unit = unit.lock().unwrap_or_else(PoisonError::into_inner);
            reply(&packet, agent, &unit, hardware)
        };
        let Some(answer) = answer else { continue };
        // One packet is one write.
        match rustix::io::write(&umad, &answer) {
            Ok(_) => _ = answered.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                peer_line!(lines, WARN, %error, "a device management answer was not sent");
            }
        }
    }
}

/// The packet that answers one; goes back where it came from.
fn reply(
    packet: &[u8; PACKET_BYTES],
    agent: u32,
    unit: &Unit,
    hardware: &Hardware,
) -> Option<[u8; PACKET_BYTES]> {
    let (header, request) = packet.split_first_chunk::<HEADER_BYTES>().expect("the whole packet");
    let request: &[u8; DATAGRAM_BYTES] = request.try_into().expect("the rest");
    // Not a request: an own answer that could not be sent.
    if header[4..8] != [0; 4] {
        return None;
    }
    let mut answer = [0; PACKET_BYTES];
    answer[HEADER_BYTES..].copy_from_slice(&unit.answer(hardware, request)?);
    // Queue pair, LID, service level, path bits, global route and P_Key index are the sender's.
    answer[20..].first_chunk_mut::<{ HEADER_BYTES - 20 }>()?.copy_from_slice(&header[20..]);
    answer[..4].copy_from_slice(&agent.to_ne_bytes());
    // No retries, no time limit: nobody answers an answer.
    answer[16..20].copy_from_slice(&(DATAGRAM_BYTES as u32).to_ne_bytes());
    answer[24..28].copy_from_slice(&QKEY.to_be_bytes());
    Some(answer)
}

/// The user MAD device of a port.
fn umad_of(class: &Path, device: &str, port: u32) -> Option<PathBuf> {
    let port = port.to_string();
    fs::read_dir(class).ok()?.flatten().find_map(|entry| {
        let says = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let name = entry.file_name();
        let umad = name.to_str().is_some_and(|name| name.starts_with("umad"));
        let hit = umad && says("ibdev").trim() == device && says("port").trim() == port;
        hit.then(|| name.into())
    })
}

/// What sysfs says of a device; zeros for what it does not say.
fn hardware_of(device: &Path) -> Hardware {
    let number = |file: &str| {
        let text = fs::read_to_string(device.join(file)).unwrap_or_default();
        let digits = text.trim().trim_start_matches("0x").replace(':', "");
        u64::from_str_radix(&digits, 16).unwrap_or(0)
    };
    Hardware {
        vendor_id: (number("node_guid") >> 40) as u32,
        device_id: number("device/device") as u32,
        version: number("hw_rev") as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_back_where_the_question_came_from() {
        let mut packet = [0; PACKET_BYTES];
        packet[..4].copy_from_slice(&9u32.to_ne_bytes());
        for (at, byte) in packet[20..HEADER_BYTES].iter_mut().enumerate() {
            *byte = at as u8 + 1;
        }
        packet[HEADER_BYTES..][..4].copy_from_slice(&[1, CLASS, CLASS_VERSION, GET]);
        packet[HEADER_BYTES + 17] = 0x01;
        let answer = reply(&packet, 7, &Unit::default(), &Hardware::default()).unwrap();
        assert_eq!(answer[..4], 7u32.to_ne_bytes(), "agent");
        assert_eq!(answer[4..16], [0; 12], "status, time limit, retries");
        assert_eq!(answer[16..20], 256u32.to_ne_bytes(), "length");
        assert_eq!(answer[20..24], packet[20..24], "queue pair");
        assert_eq!(answer[24..28], [0x80, 0x01, 0, 0], "Q_Key");
        assert_eq!(answer[28..64], packet[28..64], "LID, route, P_Key index");
        assert_eq!(answer[64..68], [1, CLASS, CLASS_VERSION, 0x81]);
        packet[4] = 1;
        assert_eq!(reply(&packet, 7, &Unit::default(), &Hardware::default()), None);
    }

    #[test]
    fn a_port_is_found_by_device_and_number() {
        let class = tempfile::tempdir().unwrap();
        for (name, device, port) in [("umad0", "a", "1"), ("issm1", "b", "2"), ("umad1", "b", "2")]
        {
            let folder = class.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("ibdev"), format!("{device}\n")).unwrap();
            fs::write(folder.join("port"), format!("{port}\n")).unwrap();
        }
        let found = |device, port| umad_of(class.path(), device, port);
        assert_eq!(found("b", 2), Some("umad1".into()));
        assert_eq!(found("a", 2), None);
        assert_eq!(umad_of(&class.path().join("none"), "a", 1), None);
    }

    #[test]
    fn hardware_comes_from_sysfs() {
        let device = tempfile::tempdir().unwrap();
        fs::create_dir(device.path().join("device")).unwrap();
        fs::write(device.path().join("node_guid"), "0002:c903:00a1:b2c3\n").unwrap();
        fs::write(device.path().join("device/device"), "0x1017\n").unwrap();
        let wanted = Hardware { vendor_id: 0x2c9, device_id: 0x1017, version: 0 };
        assert_eq!(hardware_of(device.path()), wanted);
    }
}
