//! Where a listener listens: an IP address for RDMA/CM, a GID for the native InfiniBand CM.
//!
//! A native login comes to a service ID, not to a port. librdmacm leaves 16 bits of it free, so a
//! port number stands for the service ID `0x00000000013f0000 + port` (its port space IB). The
//! request's private data then is the 64-byte SRP_LOGIN_REQ (SRP 16A, B.4) from its first byte on.
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::srp::LoginReq;

/// Service IDs of librdmacm's port space IB: this, and a port in the low 16 bits.
const IB_SERVICE_IDS: u64 = 0x0000_0000_013f_0000;

/// The default partition, as a full member.
const PKEY_DEFAULT: u16 = 0xffff;

/// AF_IB of the kernel.
pub(super) const AF_IB: u16 = 27;

/// Bytes of `struct sockaddr_ib`.
pub(super) const SOCKADDR_IB_BYTES: usize = 48;

/// Where a listener listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IPv4 or IPv6 address and a port of the RDMA/CM port space TCP.
    Ip(SocketAddr),
    /// A port GID, or all zeros for all InfiniBand ports, and the low 16 bits of the service ID.
    Ib {
        /// The GID.
        gid: Ipv6Addr,
        /// The port.
        port: u16,
    },
}

impl ListenAddress {
    /// Reads an IP address (brackets allowed), `ib:GID` or `ib`, and a port other than 0. `None`
    /// for anything else.
    pub fn parse(traddr: &str, trsvcid: &str) -> Option<Self> {
        let port: u16 = trsvcid.parse().ok().filter(|port| *port != 0)?;
        if traddr.eq_ignore_ascii_case("ib") {
            return Some(ListenAddress::Ib { gid: Ipv6Addr::UNSPECIFIED, port });
        }
        match traddr.get(..3) {
            Some(scheme) if scheme.eq_ignore_ascii_case("ib:") => {
                Some(ListenAddress::Ib { gid: traddr[3..].parse().ok()?, port })
            }
            _ => {
                let ip: IpAddr = traddr.trim_matches(['[', ']']).parse().ok()?;
                Some(ListenAddress::Ip(SocketAddr::new(ip, port)))
            }
        }
    }

    /// The service ID that initiators name, of a listener for native logins.
    pub fn service_id(&self) -> Option<u64> {
        match self {
            ListenAddress::Ip(_) => None,
            ListenAddress::Ib { port, .. } => Some(IB_SERVICE_IDS + u64::from(*port)),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Ip(socket) => socket.fmt(f),
            ListenAddress::Ib { gid, port } => write!(f, "ib:{gid} port {port}"),
        }
    }
}

/// `struct sockaddr_ib` of a GID and a port; port 0: one that the system chooses.
pub(super) fn sockaddr_ib(gid: Ipv6Addr, port: u16) -> [u8; SOCKADDR_IB_BYTES] {
    let mut bytes = [0; SOCKADDR_IB_BYTES];
    bytes[0..2].copy_from_slice(&AF_IB.to_ne_bytes());
    bytes[2..4].copy_from_slice(&PKEY_DEFAULT.to_be_bytes());
    bytes[8..24].copy_from_slice(&gid.octets());
    bytes[24..32].copy_from_slice(&(IB_SERVICE_IDS + u64::from(port)).to_be_bytes());
    bytes[32..40].copy_from_slice(&u64::MAX.to_be_bytes());
    bytes
}

/// The login within a request's private data, which its CM pads with zeros. RDMA/CM leaves 56
/// bytes for the shorter form, a native request has 92 for the longer one.
pub fn login_part(private: &[u8], native: bool) -> &[u8] {
    let len = if native { LoginReq::LEN_IB } else { LoginReq::LEN_RDMA_CM };
    &private[..private.len().min(len)]
}

/// The tag of a login, at the place where its form has it; zeros when it is cut off.
pub fn login_tag(login: &[u8]) -> [u8; 8] {
    let at = if login.len() >= LoginReq::LEN_IB { 8 } else { 0 };
    login.get(at..at + 8).and_then(|tag| tag.try_into().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::srp::LoginForm;

    /// The 92 bytes of a native request of the stock initiator: REV 16A, multichannel, immediate
    /// data at 68.
    const NATIVE: [u8; 92] = {
        let mut bytes = [0; 92];
        let fields: [(usize, &[u8]); 7] = [
            (0, &[0x00]),
            (8, &[0, 0, 0, 0, 0, 0, 0, 0x2a]),
            (16, &[0, 0, 0x20, 0x44]),
            (24, &[0x00, 0x06, 0x81]),
            (28, &[0x00, 0x44]),
            (40, &[0x00, 0x02, 0xc9, 0x03, 0x00, 0x0e, 0x8a, 0xcd]),
            (48, &[0, 2, 0xc9, 3, 0, 0xa1, 0xb2, 0xc3, 0, 2, 0xc9, 3, 0, 0xa1, 0xb2, 0xc3]),
        ];
        let mut field = 0;
        while field < fields.len() {
            let (at, from) = fields[field];
            let mut index = 0;
            while index < from.len() {
                bytes[at + index] = from[index];
                index += 1;
            }
            field += 1;
        }
        bytes
    };

    #[test]
    fn addresses_are_ip_addresses_or_gids_and_a_port() {
        let text = |traddr, trsvcid| ListenAddress::parse(traddr, trsvcid).unwrap().to_string();
        assert_eq!(text("192.0.2.1", "5555"), "192.0.2.1:5555");
        assert_eq!(text("[::]", "5555"), "[::]:5555");
        assert_eq!(text("ib", "5000"), "ib::: port 5000");
        assert_eq!(text("IB:fe80::2:c903:e:8acd", "5000"), "ib:fe80::2:c903:e:8acd port 5000");
        for (traddr, trsvcid) in
            [("host", "1"), ("1.2.3.4", "0"), ("1.2.3.4", "65536"), ("", ""), ("ib:", "1")]
        {
            assert_eq!(ListenAddress::parse(traddr, trsvcid), None, "{traddr} {trsvcid}");
        }
        assert_eq!(ListenAddress::parse("ib:1.2.3.4", "1"), None);
        assert_eq!(ListenAddress::parse("ibé", "1"), None);
    }

    #[test]
    fn a_port_is_a_service_id() {
        let ib = ListenAddress::parse("ib", "5000").unwrap();
        assert_eq!(ib.service_id(), Some(0x0000_0000_013f_1388));
        assert_eq!(ListenAddress::parse("::1", "5000").unwrap().service_id(), None);
    }

    #[test]
    fn a_native_address_byte_by_byte() {
        let gid: Ipv6Addr = "fe80::2:c903:e:8acd".parse().unwrap();
        let bytes = sockaddr_ib(gid, 5000);
        assert_eq!(bytes[..2], 27u16.to_ne_bytes(), "family");
        assert_eq!(bytes[2..4], [0xff, 0xff], "P_Key");
        assert_eq!(bytes[4..8], [0; 4], "flow");
        let octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 2, 0xc9, 3, 0, 0x0e, 0x8a, 0xcd];
        assert_eq!(bytes[8..24], octets, "GID");
        assert_eq!(bytes[24..32], [0, 0, 0, 0, 0x01, 0x3f, 0x13, 0x88], "service ID");
        assert_eq!(bytes[32..40], [0xff; 8], "mask");
        assert_eq!(bytes[40..48], [0; 8], "scope");
    }

    #[test]
    fn a_native_login_is_the_longer_form() {
        let login = login_part(&NATIVE, true);
        assert_eq!(login_tag(login), [0, 0, 0, 0, 0, 0, 0, 0x2a]);
        let req = LoginReq::parse(login).unwrap();
        assert_eq!(req.form, LoginForm::Ib);
        assert_eq!((req.req_it_iu_len, req.req_flags, req.imm_data_offset), (8260, 0x81, 68));
        assert_eq!(req.initiator_port_id[8..], [0, 2, 0xc9, 3, 0, 0x0e, 0x8a, 0xcd]);
        assert_eq!(req.target_port_id[..8], req.target_port_id[8..]);
    }

    #[test]
    fn a_login_over_rdma_cm_is_the_shorter_form() {
        let mut private = [0; 64];
        private[..8].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x2b]);
        private[8..16].copy_from_slice(&[0x00, 0x06, 0x80, 0x00, 0, 0, 0x20, 0x44]);
        private[16..48].copy_from_slice(&NATIVE[32..64]);
        private[48..50].copy_from_slice(&[0x00, 0x44]);
        let login = login_part(&private, false);
        assert_eq!((login.len(), login_tag(login)[7]), (56, 0x2b));
        let req = LoginReq::parse(login).unwrap();
        assert_eq!(req.form, LoginForm::RdmaCm);
        assert_eq!((req.req_it_iu_len, req.req_flags, req.imm_data_offset), (8260, 0x80, 68));
        assert_eq!(req.target_port_id[..], NATIVE[48..64]);
    }

    #[test]
    fn a_login_that_is_cut_off_has_no_tag() {
        assert_eq!(login_tag(&[9; 7]), [0; 8]);
        assert_eq!(login_part(&[9; 7], true), [9; 7]);
    }
}
