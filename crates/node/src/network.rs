//! The pod network: routed pods (/32 and /128 on a veth pair each, link-local gateway), no bridge.
//!
//! A bridge would need bridge-nf and hairpin settings for ClusterIPs to work; with routes the node is simply a router.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::TryStreamExt;
use ipnet::IpNet;
use parking_lot::Mutex;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};

use crate::NodeConfig;
use crate::netns::{Netns, sysctls};

/// Gateway of every pod; the node's end of each veth pair has it.
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6.
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The node's side of the pod network.
pub struct Network {
    config: NodeConfig,
    handle: Handle,
    addresses: Arc<Mutex<Addresses>>,
    next_link: AtomicU32,
    netns_dir: PathBuf,
}

/// A pod's (or an outside host's) network; released when dropped.
#[derive(Debug)]
pub struct Attachment {
    /// Its namespace.
    pub netns: Netns,
    /// Its addresses, IPv4 first.
    pub ips: Vec<IpAddr>,
    suffix: Option<u32>,
    addresses: Arc<Mutex<Addresses>>,
}

/// Which host parts of the pod ranges are taken. Both families of a pod share the host part.
#[derive(Debug, Default)]
struct Addresses {
    taken: BTreeSet<u32>,
    last: u32,
}

// === impl Network ===

impl Network {
    /// Takes the calling process's network namespace for the node's: addresses, routes, forwarding.
    pub async fn start(config: NodeConfig, netns_dir: PathBuf) -> io::Result<Self> {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        sysctls(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv4/ip_unprivileged_port_start", "0"),
        ])?;
        let lo = index(&handle, "lo").await?;
        up(&handle, lo).await?;
        for address in config.addresses.iter().chain([&config.dns_address]) {
            add_address(&handle, lo, *address).await?;
        }
        // A ClusterIP must have some route, or connect() fails before the output chain can translate it.
        for range in &config.service_cidrs {
            let source = config
                .addresses
                .iter()
                .find(|a| a.is_ipv4() == range.addr().is_ipv4());
            add_route(&handle, *range, lo, source.copied()).await?;
        }
        let addresses = Arc::new(Mutex::new(Addresses {
            last: 1,
            ..Addresses::default()
        }));
        Ok(Self {
            config,
            handle,
            addresses,
            next_link: AtomicU32::new(1),
            netns_dir,
        })
    }

    /// Makes the network of a pod with fresh addresses.
    pub async fn attach_pod(&self, name: &str) -> io::Result<Attachment> {
        let host_bits = self
            .config
            .pod_cidrs
            .iter()
            .map(|c| u32::from(c.max_prefix_len() - c.prefix_len()))
            .min();
        let limit = 1u32
            .checked_shl(host_bits.unwrap_or(0).min(16))
            .unwrap_or(1 << 16)
            - 1;
        let suffix = self.addresses.lock().take(limit).ok_or_else(|| {
            io::Error::other(format!(
                "node {}: all pod addresses of {:?} are in use",
                self.config.name, self.config.pod_cidrs
            ))
        })?;
        let ips = self
            .config
            .pod_cidrs
            .iter()
            .map(|range| host_address(*range, suffix))
            .collect();
        let attached = self.attach(name, ips, Some(suffix)).await;
        if attached.is_err() {
            self.addresses.lock().taken.remove(&suffix);
        }
        attached
    }

    /// Makes the network of a host outside the pod network.
    pub async fn attach_outside(&self, name: &str, ips: Vec<IpAddr>) -> io::Result<Attachment> {
        let shown = ips
            .iter()
            .map(IpAddr::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        self.attach(name, ips, None).await.map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("outside host {shown}: {e} (is the address in use?)"),
            )
        })
    }

    async fn attach(
        &self,
        name: &str,
        ips: Vec<IpAddr>,
        suffix: Option<u32>,
    ) -> io::Result<Attachment> {
        let (dir, file_name) = (self.netns_dir.clone(), name.to_owned());
        let netns = tokio::task::spawn_blocking(move || Netns::create(&dir, &file_name))
            .await
            .map_err(io::Error::other)??;
        let number = self.next_link.fetch_add(1, Ordering::Relaxed);
        let (near, far) = (format!("veth{number}"), format!("peer{number}"));
        self.handle
            .link()
            .add(LinkVeth::new(&near, &far).build())
            .execute()
            .await
            .map_err(|e| failed("add veth pair", e))?;
        let far_index = index(&self.handle, &far).await?;
        let moved = LinkUnspec::new_with_index(far_index)
            .name("eth0")
            .setns_by_fd(netns.file().as_raw_fd())
            .build();
        self.handle
            .link()
            .set(moved)
            .execute()
            .await
            .map_err(|e| failed("move veth", e))?;
        let near_index = index(&self.handle, &near).await?;
        up(&self.handle, near_index).await?;
        add_address(&self.handle, near_index, GATEWAY4.into()).await?;
        add_address(&self.handle, near_index, GATEWAY6.into()).await?;
        for ip in &ips {
            let source = self
                .config
                .addresses
                .iter()
                .find(|a| a.is_ipv4() == ip.is_ipv4());
            add_route(&self.handle, IpNet::from(*ip), near_index, source.copied()).await?;
        }
        let attachment = Attachment {
            netns,
            ips,
            suffix,
            addresses: self.addresses.clone(),
        };
        let ips = attachment.ips.clone();
        tokio::task::block_in_place(|| attachment.netns.enter(move || far_side(&ips)))?;
        Ok(attachment)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(suffix) = self.suffix {
            self.addresses.lock().taken.remove(&suffix);
        }
    }
}

impl Addresses {
    /// The next free host part from 2 (1 looks like a gateway) to `limit` - 1 (`limit` is the broadcast address);
    /// going round, so that a released address is not used again at once.
    fn take(&mut self, limit: u32) -> Option<u32> {
        let free = (self.last + 1..limit)
            .chain(2..=self.last)
            .find(|n| !self.taken.contains(n))?;
        self.taken.insert(free);
        self.last = free;
        Some(free)
    }
}

/// Configures a pod's own side; runs on a thread inside its namespace.
fn far_side(ips: &[IpAddr]) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        let (lo, eth) = (index(&handle, "lo").await?, index(&handle, "eth0").await?);
        up(&handle, lo).await?;
        up(&handle, eth).await?;
        for ip in ips {
            add_address(&handle, eth, *ip).await?;
        }
        if ips.iter().any(IpAddr::is_ipv4) {
            let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(GATEWAY4, 32)
                .output_interface(eth)
                .scope(RouteScope::Link)
                .build();
            handle
                .route()
                .add(gateway)
                .execute()
                .await
                .map_err(|e| failed("route to gateway", e))?;
            let default = RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(GATEWAY4)
                .output_interface(eth)
                .build();
            handle
                .route()
                .add(default)
                .execute()
                .await
                .map_err(|e| failed("default route", e))?;
        }
        if ips.iter().any(IpAddr::is_ipv6) {
            let default = RouteMessageBuilder::<Ipv6Addr>::new()
                .gateway(GATEWAY6)
                .output_interface(eth)
                .build();
            handle
                .route()
                .add(default)
                .execute()
                .await
                .map_err(|e| failed("default IPv6 route", e))?;
        }
        Ok(())
    })
}

fn host_address(range: IpNet, suffix: u32) -> IpAddr {
    match range {
        IpNet::V4(range) => Ipv4Addr::from(u32::from(range.network()) | suffix).into(),
        IpNet::V6(range) => Ipv6Addr::from(u128::from(range.network()) | u128::from(suffix)).into(),
    }
}

async fn index(handle: &Handle, name: &str) -> io::Result<u32> {
    let found = handle
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await;
    match found.map_err(|e| failed(name, e))? {
        Some(link) => Ok(link.header.index),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no link {name}"),
        )),
    }
}

async fn up(handle: &Handle, link: u32) -> io::Result<()> {
    handle
        .link()
        .set(LinkUnspec::new_with_index(link).up().build())
        .execute()
        .await
        .map_err(|e| failed("link up", e))
}

async fn add_address(handle: &Handle, link: u32, address: IpAddr) -> io::Result<()> {
    // Link-local addresses need their prefix to be on-link; all others are routed singly.
    let prefix = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(a) if a.is_unicast_link_local() => 64,
        IpAddr::V6(_) => 128,
    };
    let mut request = handle.address().add(link, address, prefix);
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request
        .execute()
        .await
        .map_err(|e| failed(&format!("address {address}"), e))
}

async fn add_route(
    handle: &Handle,
    range: IpNet,
    link: u32,
    source: Option<IpAddr>,
) -> io::Result<()> {
    let message = match range {
        IpNet::V4(range) => {
            let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(range.network(), range.prefix_len())
                .output_interface(link)
                .scope(RouteScope::Link);
            if let Some(IpAddr::V4(source)) = source {
                route = route.pref_source(source);
            }
            route.build()
        }
        IpNet::V6(range) => {
            let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(range.network(), range.prefix_len())
                .output_interface(link);
            if let Some(IpAddr::V6(source)) = source {
                route = route.pref_source(source);
            }
            route.build()
        }
    };
    handle
        .route()
        .add(message)
        .execute()
        .await
        .map_err(|e| failed(&format!("route {range}"), e))
}

fn failed(what: &str, error: rtnetlink::Error) -> io::Error {
    io::Error::other(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_round_and_run_out() {
        let mut addresses = Addresses {
            last: 1,
            ..Addresses::default()
        };
        assert_eq!(addresses.take(5), Some(2));
        assert_eq!(addresses.take(5), Some(3));
        addresses.taken.remove(&2);
        assert_eq!(addresses.take(5), Some(4), "a released address rests");
        assert_eq!(addresses.take(5), Some(2));
        assert_eq!(addresses.take(5), None);
    }

    #[test]
    fn both_families_share_the_host_part() {
        assert_eq!(
            host_address("10.244.0.0/24".parse().unwrap(), 7).to_string(),
            "10.244.0.7"
        );
        assert_eq!(
            host_address("fd44::/64".parse().unwrap(), 7).to_string(),
            "fd44::7"
        );
    }
}
