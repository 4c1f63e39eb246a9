//! RDMA ports of this machine, from sysfs: what login lines name instead of a wildcard.

use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;

/// Where the kernel shows RDMA devices.
pub const RDMA_DEVICES: &str = "/sys/class/infiniband";

/// Entries of a port's GID table that are looked at.
const GIDS_MAX: usize = 256;

/// A port of an RDMA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// InfiniBand, not Ethernet.
    pub infiniband: bool,
    /// Its GIDs, each once. Those of an Ethernet port are the IP addresses of its interfaces.
    pub gids: Vec<Ipv6Addr>,
}

/// The ports of all devices below `devices`, in the order of their names.
pub fn ports(devices: &Path) -> Vec<Port> {
    let mut ports = Vec::new();
    for device in names(devices) {
        let folder = devices.join(device).join("ports");
        for number in names(&folder) {
            ports.push(port(&folder.join(number)));
        }
    }
    ports
}

fn names(folder: &Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    names
}

fn port(folder: &Path) -> Port {
    let link = fs::read_to_string(folder.join("link_layer")).unwrap_or_default();
    let mut gids = Vec::new();
    for index in 0..GIDS_MAX {
        let Ok(text) = fs::read_to_string(folder.join("gids").join(index.to_string())) else {
            break;
        };
        match text.trim().parse::<Ipv6Addr>() {
            Ok(gid) if !gid.is_unspecified() && !gids.contains(&gid) => gids.push(gid),
            _ => {}
        }
    }
    Port { infiniband: link.trim() == "InfiniBand", gids }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_their_gids_once() {
        let devices = tempfile::tempdir().unwrap();
        let port = |device: &str, link: &str, gids: &[&str]| {
            let folder = devices.path().join(device).join("ports/1");
            fs::create_dir_all(folder.join("gids")).unwrap();
            fs::write(folder.join("link_layer"), link).unwrap();
            for (index, gid) in gids.iter().enumerate() {
                fs::write(folder.join("gids").join(index.to_string()), gid).unwrap();
            }
        };
        let v4 = "0000:0000:0000:0000:0000:ffff:c000:0201\n";
        let zero = "0000:0000:0000:0000:0000:0000:0000:0000\n";
        port("rxe0", "Ethernet\n", &["fe80:0000::1\n", v4, v4, zero]);
        port("mlx5_0", "InfiniBand\n", &["fe80::2:c903:e:8acd\n"]);
        let found = ports(devices.path());
        assert_eq!(found.len(), 2);
        assert!(found[0].infiniband && !found[1].infiniband);
        assert_eq!(found[1].gids.len(), 2);
        assert_eq!(found[1].gids[1].to_ipv4_mapped().unwrap().to_string(), "192.0.2.1");
        assert!(ports(&devices.path().join("none")).is_empty());
    }
}
