//! A hostile target on the same host, as this project's initiator meets it: its answer to the
//! handshake, and what it writes into the rings.
//!
//! The target's side is a thread that lives as long as the caller: it answers one connection per
//! input with what the input says.

use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, recv,
    socket_with,
};
use tempfile::TempDir;
use transport::initiator::{
    Channel, Command, Connector, Data, DataMemory, LoginOptions, SubmitError, login,
};
use transport::shm::{ShmConnector, ShmLink, ShmMemory};
use transport::srp::{LoginRsp, Lun, OtherChannels, Rsp};

use super::Input;
use crate::hostile as peer;

/// Time for an answer that never comes late.
const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    static TARGET: OnceCell<Hostile> = const { OnceCell::new() };
}

/// What the target answers: a datagram and the files that travel along.
type Answer = (Vec<u8>, Vec<OwnedFd>);

struct Hostile {
    answers: mpsc::Sender<Answer>,
    connector: ShmConnector,
    memory: ShmMemory,
    _dir: TempDir,
}

impl Hostile {
    fn new() -> Hostile {
        let dir = tempfile::tempdir().expect("a folder");
        let path: PathBuf = dir.path().join("sock");
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None).expect("a socket");
        bind(&socket, &SocketAddrUnix::new(&path).expect("a path that fits")).expect("bound");
        listen(&socket, 8).expect("listening");
        let (answers, asked) = mpsc::channel::<Answer>();
        std::thread::spawn(move || {
            // The last connection stays open until the next one.
            let mut last = None;
            for (bytes, files) in asked {
                let peer = accept(&socket).expect("a connection");
                let mut hello = [0; 4096];
                recv(&peer, &mut hello[..], RecvFlags::empty()).expect("a hello");
                let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
                peer::say(&peer, &bytes, &files);
                // No bytes are the end of the connection.
                last = Some(peer).filter(|_| !bytes.is_empty());
            }
            drop(last);
        });
        let connector = ShmConnector::new(path);
        let memory = connector.memory(8192).expect("memory");
        Hostile { answers, connector, memory, _dir: dir }
    }
}

/// What an ACCEPT says.
struct Accept {
    slots: u32,
    to_target: u32,
    to_initiator: u32,
    login_rsp: Vec<u8>,
}

impl Accept {
    /// Sizes near those that a target gives, or any.
    fn of(input: &mut Input<'_>) -> Accept {
        let near = input.flag();
        let size = |input: &mut Input<'_>| if near { input.u16().into() } else { input.u32() };
        let slots = if near { 1 << (input.u8() % 18) } else { input.u32() };
        let (to_target, to_initiator) = (size(input), size(input));
        let rsp = LoginRsp {
            tag: [0; 8],
            req_lim_delta: 8,
            max_it_iu_len: size(input),
            max_ti_iu_len: to_initiator,
            buf_fmt: 6,
            other_channels: OtherChannels::None,
            immediate_data: input.flag(),
        };
        let mut login_rsp = vec![0; LoginRsp::LEN];
        rsp.emit(&mut login_rsp);
        Accept { slots, to_target, to_initiator, login_rsp }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"SRPTSHM\n".to_vec();
        let len = self.login_rsp.len() as u32;
        for word in [1, 2, self.slots, self.to_target, self.to_initiator, len] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.login_rsp);
        bytes
    }
}

fn ring(pages: u16, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("fuzz", flags).expect("a memory file");
    rustix::fs::ftruncate(&file, u64::from(pages) * 4096).expect("its size");
    rustix::fs::fcntl_add_seals(&file, seals).expect("its seals");
    file
}

/// The answer to the handshake, then what both sides do.
pub(super) fn answers(input: &[u8]) {
    let mut input = Input::new(input);
    let kind = input.u8();
    let (bytes, slots) = match kind & 3 {
        0 => (input.run().to_vec(), 1),
        _ => {
            let accept = Accept::of(&mut input);
            (accept.bytes(), accept.slots)
        }
    };
    let seals = if kind & 4 == 0 { SealFlags::SHRINK } else { SealFlags::empty() };
    let ring = ring(input.u16(), seals);
    let bell = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).expect("an event counter");
    let mut files = vec![ring.try_clone().expect("a second descriptor")];
    let more = if kind & 8 == 0 { 1 } else { usize::from(kind >> 4) % 4 };
    files.extend((0..more).map(|_| bell()));
    TARGET.with(|target| {
        let Hostile { answers, connector, memory, .. } = target.get_or_init(Hostile::new);
        answers.send((bytes, files)).expect("the thread lives");
        let mut options = LoginOptions::new([1; 16], [2; 16]);
        (options.queue_size, options.timeout) = (8, PATIENCE);
        let Ok(mut channel) = login(connector, memory, &options) else { return };
        for _ in 0..64 {
            if input.is_empty() {
                break;
            }
            act(&mut channel, memory, &ring, slots, &mut input);
        }
    });
}

fn act(
    channel: &mut Channel<ShmLink>,
    memory: &ShmMemory,
    ring: &OwnedFd,
    slots: u32,
    input: &mut Input<'_>,
) {
    let ring_bytes = rustix::fs::fstat(ring).expect("a file").st_size as u64;
    let write = |at: u64, bytes: &[u8]| {
        let fits = bytes.len().min(ring_bytes.saturating_sub(at) as usize);
        rustix::io::pwrite(ring, &bytes[..fits], at).expect("a write");
    };
    match input.u8() % 5 {
        0 => {
            let segs = vec![memory.seg(0, 512); input.below(40)];
            let bytes = vec![1; input.below(8300)];
            let data = match input.u8() % 3 {
                0 => Data::In(&segs),
                1 => Data::OutImmediate(&bytes),
                _ => Data::None,
            };
            let command = Command::new(Lun::default(), &[0; 16], data, 0);
            let sent = channel.submit(&command);
            assert!(!matches!(sent, Err(SubmitError::NoCredit)) || channel.room() == 0);
            let _ = channel.flush();
        }
        1 => {
            let mut bytes = vec![0; Rsp::LEN_MIN + 24];
            let tag = u64::from(input.u8()) << 32 | u64::from(input.u8());
            Rsp::good(tag.to_be_bytes(), 1, false).emit(&mut bytes);
            let from = input.below(bytes.len());
            let change = input.bytes(8);
            let to = (from + change.len()).min(bytes.len());
            bytes[from..to].copy_from_slice(&change[..to - from]);
            let at = 4096 + (u64::from(slots) + input.below(8) as u64) * 128;
            let header = u64::from(input.u8()) << 32 | u64::from(input.u16());
            write(at + 8, &bytes);
            write(at, &header.to_ne_bytes());
        }
        2 => write(input.u32().into(), input.bytes(32)),
        _ => {
            let polled = channel.poll(|_| {});
            assert!(polled.is_err() || channel.in_flight() <= 9);
        }
    }
}
