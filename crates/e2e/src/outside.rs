//! The world outside the cluster: hosts with names and addresses of their own, served by `osm-apps outside`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Hosts outside the cluster.
#[derive(Clone, Debug)]
pub struct World {
    /// Addresses, IPv4 and IPv6.
    pub addresses: Vec<IpAddr>,
    /// Names; each resolves to every address that its first line in [`World::hosts`] gives it.
    pub hosts: Vec<(IpAddr, Vec<String>)>,
    /// More arguments of `osm-apps outside`.
    pub arguments: Vec<String>,
}

// === impl World ===

impl World {
    /// All names on all addresses: names that share an address are what server names are there to tell apart.
    pub fn new(addresses: &[&str], names: &[&str], arguments: &[&str]) -> Self {
        let addresses: Vec<IpAddr> = addresses
            .iter()
            .filter_map(|address| address.parse().ok())
            .collect();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let hosts = addresses
            .iter()
            .map(|address| (*address, names.clone()))
            .collect();
        Self {
            addresses,
            hosts,
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    /// The lines for the cluster's DNS, as in /etc/hosts.
    pub fn hosts(&self) -> String {
        self.hosts
            .iter()
            .map(|(address, names)| format!("{address} {}\n", names.join(" ")))
            .collect()
    }

    /// Arguments of the command that runs a program outside the cluster: addresses, then the program.
    pub fn command(&self, apps: &Path, authority: &Path) -> Vec<PathBuf> {
        let mut words: Vec<PathBuf> = Vec::new();
        for address in &self.addresses {
            let flag = if address.is_ipv4() { "--ip" } else { "--ip6" };
            words.extend([flag.into(), address.to_string().into()]);
        }
        words.extend([
            "--".into(),
            apps.into(),
            "outside".into(),
            "--ca-out".into(),
            authority.into(),
        ]);
        let mut names: Vec<&String> = self.hosts.iter().flat_map(|(_, names)| names).collect();
        names.sort();
        names.dedup();
        words.extend(
            names
                .into_iter()
                .flat_map(|name| [PathBuf::from("--name"), name.into()]),
        );
        words.extend(self.arguments.iter().map(PathBuf::from));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_share_every_address() {
        let world = World::new(
            &["198.51.100.10", "2001:db8::10"],
            &["a.org", "b.io"],
            &["--echo-port=9000"],
        );
        assert_eq!(
            world.hosts(),
            "198.51.100.10 a.org b.io\n2001:db8::10 a.org b.io\n"
        );
        let words = world.command(Path::new("/bin/osm-apps"), Path::new("/d/ca.pem"));
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        assert_eq!(
            words.join(" "),
            "--ip 198.51.100.10 --ip6 2001:db8::10 -- /bin/osm-apps outside --ca-out /d/ca.pem --name a.org --name b.io --echo-port=9000"
        );
    }
}
