//! What is intercepted and what is not.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Settings of one pod's interception.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Options {
    /// Destinations (CIDR) that the application reaches without the sidecar
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…")]
    pub outbound_ip_range_exclusion: Vec<IpNet>,
    /// If given, only these destinations (CIDR) go through the sidecar; exclusions win
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…")]
    pub outbound_ip_range_inclusion: Vec<IpNet>,
    /// Destination ports that the application reaches without the sidecar
    #[arg(long, value_delimiter = ',', value_name = "PORT,…")]
    pub outbound_port_exclusion: Vec<Port>,
    /// Ports of the application that are reached without the sidecar
    #[arg(long, value_delimiter = ',', value_name = "PORT,…")]
    pub inbound_port_exclusion: Vec<Port>,
    /// Interfaces whose traffic is not intercepted, either way; a trailing + matches any rest
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub network_interface_exclusion: Vec<Interface>,
    /// Where the sidecar reaches the application
    #[arg(long, value_enum, default_value_t)]
    pub local_proxy_mode: LocalProxyMode,
    /// The pod's addresses; needed for local proxy mode PodIP only
    #[arg(long, value_delimiter = ',', env = "POD_IP", value_name = "IP,…")]
    pub pod_ip: Vec<IpAddr>,
    /// Which program loads the rules
    #[arg(long, value_enum, default_value_t)]
    pub backend: BackendChoice,
}

/// Destination the sidecar uses for the application of its own pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum LocalProxyMode {
    /// 127.0.0.1 (or ::1).
    #[default]
    #[value(name = "Localhost", alias = "localhost")]
    Localhost,
    /// The pod's own address, for applications that listen on nothing else.
    #[value(name = "PodIP", alias = "podip", alias = "pod-ip")]
    #[serde(rename = "PodIP")]
    PodIp,
}

/// Which program loads the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// nft if the image has it and the kernel takes the rules, else iptables-restore.
    #[default]
    Auto,
    /// nft only.
    Nft,
    /// iptables-restore and ip6tables-restore only.
    Iptables,
}

/// A TCP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Port(u16);

/// A network interface's name as the kernel accepts it, optionally ending in `+` for "any rest".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interface(String);

/// Why a value is not a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Not a number from 1 to 65535.
    #[error("'{0}' is not a port: expected a number from 1 to 65535")]
    Port(String),
    /// Not a name that an interface can have.
    #[error(
        "'{0}' is not an interface name: expected 1 to 15 letters, digits or any of . _ - @ :, optionally with a final +"
    )]
    Interface(String),
}

// === impl Options ===

impl Options {
    /// The command line flags that stand for these options; settings left at their default give no flag.
    /// `pod_ip` gives none either: it is only known when the pod runs, and comes from the environment.
    pub fn to_args(&self) -> Vec<String> {
        fn list<T: fmt::Display>(args: &mut Vec<String>, flag: &str, values: &[T]) {
            if !values.is_empty() {
                let joined: Vec<String> = values.iter().map(T::to_string).collect();
                args.push(format!("--{flag}={}", joined.join(",")));
            }
        }
        let mut args = Vec::new();
        list(
            &mut args,
            "outbound-ip-range-exclusion",
            &self.outbound_ip_range_exclusion,
        );
        list(
            &mut args,
            "outbound-ip-range-inclusion",
            &self.outbound_ip_range_inclusion,
        );
        list(
            &mut args,
            "outbound-port-exclusion",
            &self.outbound_port_exclusion,
        );
        list(
            &mut args,
            "inbound-port-exclusion",
            &self.inbound_port_exclusion,
        );
        list(
            &mut args,
            "network-interface-exclusion",
            &self.network_interface_exclusion,
        );
        if self.local_proxy_mode == LocalProxyMode::PodIp {
            args.push("--local-proxy-mode=PodIP".to_owned());
        }
        match self.backend {
            BackendChoice::Auto => {}
            BackendChoice::Nft => args.push("--backend=nft".to_owned()),
            BackendChoice::Iptables => args.push("--backend=iptables".to_owned()),
        }
        args
    }
}

/// The IPv4 and IPv6 ranges among these, without overlaps: netfilter sets refuse them.
pub(crate) fn by_family(ranges: &[IpNet]) -> (Vec<Ipv4Net>, Vec<Ipv6Net>) {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for range in ranges {
        match range {
            IpNet::V4(net) => v4.push(net.trunc()),
            IpNet::V6(net) => v6.push(net.trunc()),
        }
    }
    (Ipv4Net::aggregate(&v4), Ipv6Net::aggregate(&v6))
}

/// The ports, in order and each once.
pub(crate) fn distinct(ports: &[Port]) -> Vec<u16> {
    let mut ports: Vec<u16> = ports.iter().map(|port| port.get()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

// === impl Port ===

impl Port {
    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Port {
    type Error = OptionsError;

    fn try_from(port: u16) -> Result<Self, OptionsError> {
        if port == 0 {
            Err(OptionsError::Port(port.to_string()))
        } else {
            Ok(Self(port))
        }
    }
}

impl FromStr for Port {
    type Err = OptionsError;

    fn from_str(text: &str) -> Result<Self, OptionsError> {
        let port: u16 = text
            .trim()
            .parse()
            .map_err(|_| OptionsError::Port(text.trim().to_owned()))?;
        Self::try_from(port)
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> u16 {
        port.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Interface ===

impl Interface {
    /// The name in the notation of iptables.
    pub(crate) fn iptables(&self) -> &str {
        &self.0
    }

    /// The name in the notation of nft, where `*` is the wildcard.
    pub(crate) fn nft(&self) -> String {
        match self.0.strip_suffix('+') {
            Some(prefix) => format!("{prefix}*"),
            None => self.0.clone(),
        }
    }
}

impl FromStr for Interface {
    type Err = OptionsError;

    fn from_str(text: &str) -> Result<Self, OptionsError> {
        let text = text.trim();
        let name = text.strip_suffix('+').unwrap_or(text);
        // IFNAMSIZ is 16 with the final NUL. The characters are narrower than the kernel's own rule, so that a name can
        // never end a quoted string or a line of the scripts.
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | ':');
        if name.is_empty()
            || text.len() > 15
            || name == "."
            || name == ".."
            || name.starts_with('-')
            || !name.chars().all(known)
        {
            return Err(OptionsError::Interface(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Interface {
    type Error = OptionsError;

    fn try_from(text: String) -> Result<Self, OptionsError> {
        text.parse()
    }
}

impl From<Interface> for String {
    fn from(interface: Interface) -> String {
        interface.0
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn flags_and_options_are_the_same_thing() {
        let options = Options {
            outbound_ip_range_exclusion: vec![
                "10.0.0.0/8".parse().unwrap(),
                "fd00::/8".parse().unwrap(),
            ],
            outbound_ip_range_inclusion: vec!["0.0.0.0/0".parse().unwrap()],
            outbound_port_exclusion: vec!["80".parse().unwrap(), "443".parse().unwrap()],
            inbound_port_exclusion: vec!["9000".parse().unwrap()],
            network_interface_exclusion: vec!["net1".parse().unwrap(), "cali+".parse().unwrap()],
            local_proxy_mode: LocalProxyMode::PodIp,
            pod_ip: Vec::new(),
            backend: BackendChoice::Nft,
        };
        let args = options.to_args();
        assert_eq!(
            args.first().map(String::as_str),
            Some("--outbound-ip-range-exclusion=10.0.0.0/8,fd00::/8")
        );
        let parsed =
            Program::try_parse_from(std::iter::once("init".to_owned()).chain(args)).unwrap();
        assert_eq!(parsed.options, options);
        assert!(Options::default().to_args().is_empty());
    }

    #[test]
    fn bad_values_are_refused_and_named() {
        for (flag, value) in [
            ("outbound-port-exclusion", "0"),
            ("outbound-port-exclusion", "65536"),
            ("inbound-port-exclusion", "http"),
            ("outbound-ip-range-exclusion", "1.2.3.4/33"),
            ("network-interface-exclusion", "a\"; drop"),
            ("network-interface-exclusion", "averyverylongname"),
            ("local-proxy-mode", "Pod"),
        ] {
            let Err(error) =
                Program::try_parse_from(["init".to_owned(), format!("--{flag}={value}")])
            else {
                panic!("--{flag}={value} was accepted");
            };
            let error = error.to_string();
            assert!(error.contains(flag) && error.contains(value), "{error}");
        }
    }
}
