//! What an I/O unit answers to device management datagrams (InfiniBand Architecture 1.2.1, 16.3).
//!
//! Bytes in, bytes out. Any 256 bytes are survived: a datagram that is no request of this class
//! gets no answer, every other one an answer of the same size.

/// Bytes of a management datagram.
pub const DATAGRAM_BYTES: usize = 256;
/// The management class (IBA 13.4.4).
pub(super) const CLASS: u8 = 0x06;
/// Its version.
pub(super) const CLASS_VERSION: u8 = 1;
/// Method Get.
pub(super) const GET: u8 = 0x01;
/// Method Set.
pub(super) const SET: u8 = 0x02;
/// I/O controllers that a unit can show.
pub const CONTROLLERS_MAX: usize = 16;

const GET_RESP: u8 = 0x81;
const RESPONSE_BIT: u8 = 0x80;

const METHOD: usize = 3;
const STATUS: usize = 4;
const ATTRIBUTE: usize = 16;
const MODIFIER: usize = 20;
const DATA: usize = 64;

/// Status values (IBA 13.4.7, 16.3.1.1).
mod status {
    pub(super) const BAD_VERSION: u16 = 0x0004;
    pub(super) const METHOD: u16 = 0x0008;
    pub(super) const METHOD_ATTRIBUTE: u16 = 0x000c;
    pub(super) const INVALID_FIELD: u16 = 0x001c;
    pub(super) const NO_CONTROLLER: u16 = 0x0100;
}

/// One SRP target port as fabrics are told of it: an I/O controller with one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// Its GUID: `ioc_guid` and `id_ext` of a login.
    pub guid: u64,
    /// The service ID to log in to.
    pub service_id: u64,
    /// Receives of a channel, or of a shared queue.
    pub queue_depth: u16,
    /// Largest information unit from an initiator, in bytes (`srp_max_req_size`).
    pub send_bytes_max: u32,
    /// Largest RDMA transfer, in bytes (`srp_max_rdma_size`).
    pub rdma_bytes_max: u32,
}

/// The device that the unit is reached through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hardware {
    /// IEEE company identifier.
    pub vendor_id: u32,
    /// Assigned by the vendor.
    pub device_id: u32,
    /// Assigned by the vendor.
    pub version: u16,
}

/// What is shown: the I/O unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unit {
    controllers: Vec<Controller>,
    change_id: u16,
}

impl Unit {
    /// Shows other controllers from now on, the first [`CONTROLLERS_MAX`] of them. The change
    /// counter moves when they differ.
    pub fn show(&mut self, mut controllers: Vec<Controller>) {
        controllers.truncate(CONTROLLERS_MAX);
        if self.controllers != controllers {
            self.change_id = self.change_id.wrapping_add(1);
            self.controllers = controllers;
        }
    }

    /// The answer to a datagram; `None` when it is none of this class, or an answer itself.
    pub fn answer(
        &self,
        hardware: &Hardware,
        request: &[u8; DATAGRAM_BYTES],
    ) -> Option<[u8; DATAGRAM_BYTES]> {
        if request[1] != CLASS || request[METHOD] & RESPONSE_BIT != 0 {
            return None;
        }
        let mut answer = [0; DATAGRAM_BYTES];
        // Transaction, attribute and modifier are echoed; there is no multi-packet header.
        answer[..24].copy_from_slice(&request[..24]);
        answer[METHOD] = GET_RESP;
        let attribute = u16::from_be_bytes([request[ATTRIBUTE], request[ATTRIBUTE + 1]]);
        let modifier =
            u32::from_be_bytes(request[MODIFIER..MODIFIER + 4].try_into().expect("four"));
        let data = &mut answer[DATA..];
        let status = match (request[0], request[2], request[METHOD]) {
            (1, CLASS_VERSION, GET) => self.get(hardware, attribute, modifier, data).err(),
            // Some initiators set ClassPortInfo and want an answer, not a certain one.
            (1, CLASS_VERSION, SET) => Some(status::METHOD_ATTRIBUTE),
            (1, CLASS_VERSION, _) => Some(status::METHOD),
            _ => Some(status::BAD_VERSION),
        };
        answer[STATUS..STATUS + 2].copy_from_slice(&status.unwrap_or(0).to_be_bytes());
        Some(answer)
    }

    fn get(
        &self,
        hardware: &Hardware,
        attribute: u16,
        modifier: u32,
        data: &mut [u8],
    ) -> Result<(), u16> {
        match attribute {
            0x0001 => class_port_info(data),
            0x0010 => self.unit_info(data),
            0x0011 => profile(self.controller(modifier)?, hardware, data),
            0x0012 => {
                let controller = self.controller(modifier >> 16)?;
                let (last, first) = ((modifier >> 8) as u8, modifier as u8);
                if first > last || last > 1 {
                    return Err(status::NO_CONTROLLER);
                }
                if first == 0 {
                    service_entry(controller, data);
                }
            }
            _ => return Err(status::METHOD_ATTRIBUTE),
        }
        Ok(())
    }

    /// The controller in a slot, counted from 1.
    fn controller(&self, slot: u32) -> Result<&Controller, u16> {
        match slot {
            1..=16 => self.controllers.get(slot as usize - 1).ok_or(status::NO_CONTROLLER),
            _ => Err(status::INVALID_FIELD),
        }
    }

    /// IOUnitInfo (IBA 16.3.3.3): a nibble per slot, 1 for present.
    fn unit_info(&self, data: &mut [u8]) {
        data[..2].copy_from_slice(&self.change_id.to_be_bytes());
        data[2] = CONTROLLERS_MAX as u8;
        for slot in 0..128 * 2 {
            let present = slot < self.controllers.len();
            let nibble = if slot >= CONTROLLERS_MAX { 0xf } else { u8::from(present) };
            data[4 + slot / 2] |= if slot % 2 == 0 { nibble << 4 } else { nibble };
        }
    }
}

/// ClassPortInfo (IBA 13.4.8.1): answers within 4.096 µs times 2 to the 20th, about 4 s.
fn class_port_info(data: &mut [u8]) {
    data[0] = 1;
    data[1] = CLASS_VERSION;
    data[4..8].copy_from_slice(&20u32.to_be_bytes());
}

/// IOControllerProfile (IBA 16.3.3.4; SRP 16A, B.7).
fn profile(controller: &Controller, hardware: &Hardware, data: &mut [u8]) {
    let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &controller.guid.to_be_bytes());
    put(8, &hardware.vendor_id.to_be_bytes());
    put(12, &hardware.device_id.to_be_bytes());
    put(16, &hardware.version.to_be_bytes());
    put(20, &hardware.vendor_id.to_be_bytes());
    // Class, subclass, protocol and its version say: SRP, revision 16A.
    put(28, &[0x01, 0x00, 0x60, 0x9e, 0x01, 0x08, 0x00, 0x01]);
    put(40, &controller.queue_depth.to_be_bytes());
    // RDMA READs that may be in flight.
    put(43, &[4]);
    put(44, &controller.send_bytes_max.to_be_bytes());
    put(48, &controller.rdma_bytes_max.to_be_bytes());
    // Sends both ways, RDMA READ and WRITE; no service capabilities; one service.
    put(52, &[0x2b, 0, 1]);
    put(64, b"srpt_tgt SRP target");
}

/// ServiceEntries (IBA 16.3.3.5): up to four of 48 bytes.
fn service_entry(controller: &Controller, data: &mut [u8]) {
    let name = format!("SRP.T10:{:016x}", controller.guid);
    data[..name.len()].copy_from_slice(name.as_bytes());
    data[40..48].copy_from_slice(&controller.service_id.to_be_bytes());
}

#[cfg(test)]
mod tests;
