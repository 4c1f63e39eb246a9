//! The handshake and the rings of shared memory, byte by byte.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use transport::srp::{LoginRej, LoginRsp};

use super::peer::Refused;
use super::step;
use crate::process::PATIENCE;

/// Layout of the ring file: the head, then slots of both directions, then units that are longer.
const HEAD_BYTES: u64 = 4096;
const SLOT_BYTES: u64 = 128;
const INLINE_BYTES: usize = 120;

/// Connects to a listener.
pub fn dial(path: &Path) -> OwnedFd {
    step::take(step::LOGIN);
    connect(path)
}

/// A socket to the listener, whatever the good session does: for what no core takes part in.
pub fn connect(path: &Path) -> OwnedFd {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).expect("a socket");
    let address = SocketAddrUnix::new(path).expect("a path that fits");
    rustix::net::connect(&socket, &address).expect("a listener");
    socket
}

/// HELLO of the handshake: magic, version, kind, regions, login length, login.
pub fn hello(version: u32, regions: u32, login: &[u8]) -> Vec<u8> {
    let mut bytes = b"SRPTSHM\n".to_vec();
    for word in [version, 1, regions, login.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(login);
    bytes
}

/// Says something on the socket, with files. False: the other end is closed.
pub fn say(socket: &OwnedFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(files)));
    }
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).is_ok()
}

/// What the target says: bytes and files; no bytes when it closes the connection.
pub fn told(socket: &OwnedFd) -> (Vec<u8>, Vec<OwnedFd>) {
    let wait = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&wait));
    assert_eq!(ready, Ok(1), "no answer");
    let (mut bytes, mut files) = (vec![0; 4096], Vec::new());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [std::io::IoSliceMut::new(&mut bytes)];
    let Ok(message) = rustix::net::recvmsg(socket, slices, &mut control, RecvFlags::empty()) else {
        return (Vec::new(), files);
    };
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            files.extend(rights);
        }
    }
    bytes.truncate(message.bytes);
    (bytes, files)
}

/// A memory file, sealed as asked.
pub fn memory(bytes: usize, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("hostile", flags).expect("a memory file");
    rustix::fs::ftruncate(&file, bytes as u64).expect("its size");
    rustix::fs::fcntl_add_seals(&file, seals).expect("its seals");
    file
}

/// One direction's place in the ring file.
struct Lane {
    slots_at: u64,
    overflow_at: u64,
    stride: u64,
    next: u64,
}

impl Lane {
    fn stride(unit_bytes_max: u32) -> u64 {
        (u64::from(unit_bytes_max).div_ceil(64) | 1) * 64
    }
}

/// One channel's socket, ring file, bell and registered memory.
pub struct ShmWire {
    socket: OwnedFd,
    ring: OwnedFd,
    bell: OwnedFd,
    data: OwnedFd,
    slots: u64,
    out: Lane,
    into: Lane,
}

impl ShmWire {
    /// Logs in with the bytes of a request and memory of the caller's.
    pub(super) fn login(
        path: &Path,
        request: &[u8],
        data: OwnedFd,
    ) -> Result<(ShmWire, LoginRsp), Refused> {
        let socket = dial(path);
        say(&socket, &hello(1, 1, request), &[data.as_fd()]);
        let (bytes, files) = told(&socket);
        if bytes.len() < 16 {
            return Err(Refused::Closed);
        }
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("a word"));
        match word(12) {
            2 => {}
            3 => {
                return Err(Refused::Rejected(
                    LoginRej::parse(&bytes[20..]).expect("a reject").reason,
                ));
            }
            _ => return Err(Refused::Error(String::from_utf8_lossy(&bytes[20..]).into_owned())),
        }
        let (slots, to_target, to_initiator) = (u64::from(word(16)), word(20), word(24));
        let agreed = LoginRsp::parse(&bytes[32..]).expect("a login response");
        let [ring, bell] = files.try_into().expect("the ring file and the bell");
        let overflow_at = HEAD_BYTES + slots * 2 * SLOT_BYTES;
        let out =
            Lane { slots_at: HEAD_BYTES, overflow_at, stride: Lane::stride(to_target), next: 0 };
        let into = Lane {
            slots_at: HEAD_BYTES + slots * SLOT_BYTES,
            overflow_at: overflow_at + slots * out.stride,
            stride: Lane::stride(to_initiator),
            next: 0,
        };
        Ok((ShmWire { socket, ring, bell, data, slots, out, into }, agreed))
    }

    /// Sends a unit that says it had `len` bytes.
    pub fn send_as(&mut self, unit: &[u8], len: u32) {
        step::take(step::UNIT);
        let (slot, lap) = (self.out.next % self.slots, (self.out.next / self.slots + 1) as u32);
        let header_at = self.out.slots_at + slot * SLOT_BYTES;
        let inside = len as usize <= INLINE_BYTES;
        let at = if inside { header_at + 8 } else { self.out.overflow_at + slot * self.out.stride };
        rustix::io::pwrite(&self.ring, unit, at).expect("the ring file takes writes");
        let header = u64::from(lap) << 32 | u64::from(len);
        rustix::io::pwrite(&self.ring, &header.to_ne_bytes(), header_at).expect("a header");
        self.out.next += 1;
        self.ring_bell();
    }

    /// Wakes the target, wanted or not.
    pub fn ring_bell(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// The next unit from the target.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let (slot, lap) = (self.into.next % self.slots, (self.into.next / self.slots + 1) as u32);
        let header_at = self.into.slots_at + slot * SLOT_BYTES;
        let mut header = [0; 8];
        rustix::io::pread(&self.ring, &mut header, header_at).expect("a header");
        let header = u64::from_ne_bytes(header);
        if (header >> 32) as u32 != lap {
            return None;
        }
        let len = header as u32 as usize;
        let inside = len <= INLINE_BYTES;
        let at =
            if inside { header_at + 8 } else { self.into.overflow_at + slot * self.into.stride };
        let mut unit = vec![0; len];
        rustix::io::pread(&self.ring, &mut unit[..], at).expect("a unit");
        self.into.next += 1;
        Some(unit)
    }

    /// The target has closed the channel.
    pub fn ended(&self) -> bool {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        matches!(rustix::net::recv(&self.socket, &mut [0u8; 1][..], flags), Ok((_, 0)))
    }

    /// Writes into the registered memory.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        rustix::io::pwrite(&self.data, bytes, at as u64).expect("inside the memory");
    }

    /// Reads from the registered memory.
    pub fn look(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        rustix::io::pread(&self.data, &mut bytes[..], at as u64).expect("inside the memory");
        bytes
    }

    /// The registered memory's file.
    pub fn data(&self) -> &OwnedFd {
        &self.data
    }

    /// Everything in the ring file, the target's half included.
    pub fn ring_bytes(&self) -> Vec<u8> {
        let len = rustix::fs::fstat(&self.ring).expect("a file").st_size as usize;
        let mut bytes = vec![0; len];
        rustix::io::pread(&self.ring, &mut bytes[..], 0).expect("the ring file");
        bytes
    }

    /// Writes a word anywhere into the ring file.
    pub fn scribble(&self, offset: u64, word: u64) {
        rustix::io::pwrite(&self.ring, &word.to_ne_bytes(), offset).expect("inside the ring file");
    }

    /// Bytes of the ring file up to where the longer units begin.
    pub fn slots_end(&self) -> u64 {
        self.out.overflow_at
    }

    /// Chatter on the socket. False: nobody takes it.
    pub fn chatter(&self, bytes: &[u8]) -> bool {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::send(&self.socket, bytes, flags).is_ok()
    }
}
