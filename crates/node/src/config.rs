//! What a node must know of the cluster it belongs to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Address plan and folders of a node. The address plan is fixed: every cluster lives in namespaces of its own,
/// so that two clusters on one machine cannot collide.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Name of the Node object.
    pub name: String,
    /// The node's own addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Where pod addresses come from, IPv4 first.
    pub pod_cidrs: Vec<IpNet>,
    /// Where ClusterIPs come from; what matches no Service in them is refused.
    pub service_cidrs: Vec<IpNet>,
    /// Address of the cluster DNS.
    pub dns_address: IpAddr,
    /// DNS zone of the cluster.
    pub cluster_domain: String,
    /// Volatile state: overlays, volumes, namespaces. Must be on a tmpfs that dies with the cluster.
    pub run_dir: PathBuf,
    /// Logs of the containers.
    pub log_dir: PathBuf,
    /// The image table that `osm local image add` edits.
    pub images_file: PathBuf,
    /// The executable whose hidden subcommands start containers; also the image `osm`.
    pub executable: PathBuf,
}

impl NodeConfig {
    /// The address plan of the embedded cluster with the given folders.
    pub fn new(
        run_dir: PathBuf,
        log_dir: PathBuf,
        images_file: PathBuf,
        executable: PathBuf,
    ) -> Self {
        Self {
            name: "node1".to_owned(),
            addresses: vec![
                Ipv4Addr::new(172, 31, 255, 1).into(),
                Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, 1).into(),
            ],
            pod_cidrs: vec![
                Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 24).into(),
                Ipv6Net::new_assert(Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, 0), 64).into(),
            ],
            service_cidrs: vec![
                Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16).into(),
                Ipv6Net::new_assert(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0), 112).into(),
            ],
            dns_address: Ipv4Addr::new(10, 96, 0, 10).into(),
            cluster_domain: "cluster.local".to_owned(),
            run_dir,
            log_dir,
            images_file,
            executable,
        }
    }

    /// The node's IPv4 address.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|a| match a {
            IpAddr::V4(a) => Some(*a),
            IpAddr::V6(_) => None,
        })
    }

    /// The node's IPv6 address.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|a| match a {
            IpAddr::V6(a) => Some(*a),
            IpAddr::V4(_) => None,
        })
    }
}
