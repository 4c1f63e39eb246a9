//! What an operator pastes at an initiator.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use transport::rdma::ListenAddress;

use super::Listener;
use super::ports::Port;

/// The identifiers of a target as `add_target` of `ib_srp` and the rules of `srp_daemon` name them.
fn identity(guid: u64) -> String {
    format!("id_ext={guid:016x},ioc_guid={guid:016x}")
}

/// The line that lets `srp_daemon` log in to a target (`srp_daemon.conf`).
pub fn rule(guid: u64) -> String {
    format!("a {}", identity(guid))
}

/// Lines for `add_target`, one per address of an rdma listener. A wildcard becomes the addresses
/// of `ports`; where they are not known, the line has a place for one in angle brackets. None for
/// other listeners.
pub fn lines(guid: u64, listener: &Listener, ports: &[Port]) -> Vec<String> {
    let port = listener.trsvcid.as_deref().unwrap_or_default();
    let address = match listener.trtype {
        "rdma" => ListenAddress::parse(&listener.traddr, port),
        _ => None,
    };
    let rest = match address {
        None => return Vec::new(),
        Some(ListenAddress::Ip(socket)) => dests(socket, ports),
        Some(ListenAddress::Ib { gid, port }) => {
            let service_id = ListenAddress::Ib { gid, port }.service_id().unwrap_or_default();
            gids(gid, ports)
                .into_iter()
                .map(|gid| format!("pkey=ffff,dgid={gid},service_id={service_id:016x}"))
                .collect()
        }
    };
    rest.into_iter().map(|rest| format!("{},{rest}", identity(guid))).collect()
}

fn dests(socket: SocketAddr, ports: &[Port]) -> Vec<String> {
    if !socket.ip().is_unspecified() {
        return vec![format!("dest={socket}")];
    }
    let addresses = ports
        .iter()
        .filter(|port| !port.infiniband)
        .flat_map(|port| &port.gids)
        .map(|gid| gid.to_ipv4_mapped().map_or(IpAddr::V6(*gid), IpAddr::V4))
        // A link-local address means nothing without an interface of the initiator.
        .filter(|ip| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .filter(|ip| ip.is_ipv4() || socket.is_ipv6());
    let mut dests: Vec<String> =
        addresses.map(|ip| format!("dest={}", SocketAddr::new(ip, socket.port()))).collect();
    if dests.is_empty() {
        dests.push(format!("dest=<address>:{}", socket.port()));
    }
    dests
}

/// 32 digits each.
fn gids(gid: Ipv6Addr, ports: &[Port]) -> Vec<String> {
    let digits = |gid: &Ipv6Addr| format!("{:032x}", gid.to_bits());
    if !gid.is_unspecified() {
        return vec![digits(&gid)];
    }
    let first = ports.iter().filter(|port| port.infiniband).filter_map(|port| port.gids.first());
    let gids: Vec<String> = first.map(digits).collect();
    if gids.is_empty() { vec!["<gid>".to_owned()] } else { gids }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: u64 = 0x0002_c903_00a1_b2c3;
    const WHO: &str = "id_ext=0002c90300a1b2c3,ioc_guid=0002c90300a1b2c3";

    fn shown(traddr: &str, ports: &[Port]) -> Vec<String> {
        let traddr = traddr.to_owned();
        let listener = Listener { trtype: "rdma", traddr, trsvcid: Some("5000".to_owned()) };
        let lines = lines(GUID, &listener, ports);
        lines.iter().map(|line| line.strip_prefix(WHO).expect("who").to_owned()).collect()
    }

    fn machine() -> Vec<Port> {
        let gid = |text: &str| text.parse().expect("a GID");
        vec![
            Port { infiniband: true, gids: vec![gid("fe80::2:c903:e:8acd"), gid("fd00::9")] },
            Port {
                infiniband: false,
                gids: vec![gid("fe80::1"), gid("::ffff:192.0.2.1"), gid("2001:db8::1")],
            },
        ]
    }

    #[test]
    fn an_address_is_a_dest() {
        assert_eq!(shown("192.0.2.1", &[]), [",dest=192.0.2.1:5000"]);
        assert_eq!(shown("2001:db8::1", &[]), [",dest=[2001:db8::1]:5000"]);
    }

    #[test]
    fn a_wildcard_is_every_address_of_its_family() {
        assert_eq!(shown("0.0.0.0", &machine()), [",dest=192.0.2.1:5000"]);
        let both = [",dest=192.0.2.1:5000", ",dest=[2001:db8::1]:5000"];
        assert_eq!(shown("::", &machine()), both);
        assert_eq!(shown("0.0.0.0", &[]), [",dest=<address>:5000"]);
    }

    #[test]
    fn a_native_listener_is_a_gid_and_a_service() {
        let service = "service_id=00000000013f1388";
        let line = format!(",pkey=ffff,dgid=fe800000000000000002c903000e8acd,{service}");
        let one = [line];
        assert_eq!(shown("ib", &machine()), one);
        assert_eq!(shown("ib:fe80::2:c903:e:8acd", &[]), one);
        assert_eq!(shown("ib", &[]), [format!(",pkey=ffff,dgid=<gid>,{service}")]);
    }

    #[test]
    fn the_daemon_has_a_rule() {
        assert_eq!(rule(GUID), format!("a {WHO}"));
    }
}
