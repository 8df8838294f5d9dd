//! Traffic interception of one pod: from settings to netfilter rules applied in the current network namespace.
//!
//! Everything the application sends over TCP goes to the sidecar's outbound port and everything that comes in goes to
//! its inbound port, for IPv4 and IPv6 alike; the sidecar itself (by UID), loopback and what the settings exclude do not.
//! This crate knows nothing of Kubernetes, xDS or the proxy: it is what `osm-proxy init` runs.
//!
//! * [`Options`] are the settings, as command line flags and as a value ([`Options::to_args`] turns them into the flags).
//! * [`Ruleset`] renders them, as an nft script or as input for `iptables-restore`; it is pure.
//! * [`apply`] loads the rules with whichever of the two the image has. Applying twice leaves the rules of the second time.

mod apply;
mod iptables;
mod nft;
mod options;

pub use apply::{ApplyError, Backend, apply};
pub use options::{BackendChoice, Interface, LocalProxyMode, Options, OptionsError, Port};

/// Port on which the sidecar takes the application's outgoing connections.
pub const OUTBOUND_PORT: u16 = 15001;
/// Port on which the sidecar takes connections to the pod.
pub const INBOUND_PORT: u16 = 15003;
/// The sidecar's administration port; only ever on loopback.
pub const ADMIN_PORT: u16 = 15000;
/// The sidecar's user; connections of this user are never sent back to the sidecar.
pub const PROXY_UID: u32 = 1500;
/// Ports of the pod that belong to the sidecar and take plain connections: metrics, then liveness, readiness, startup
/// probes and the TCP health check.
pub const PLAIN_INBOUND_PORTS: [u16; 5] = [15010, 15901, 15902, 15903, 15904];

/// The rules that follow from some [`Options`], ready to be rendered for either kind of netfilter front end.
pub struct Ruleset<'a> {
    options: &'a Options,
}

impl<'a> Ruleset<'a> {
    /// The rules for these options.
    pub fn new(options: &'a Options) -> Self {
        Self { options }
    }

    /// One atomic nft script that replaces table `inet osm`.
    pub fn nft(&self) -> String {
        nft::render(self.options)
    }

    /// Input for `iptables-restore --noflush` and for `ip6tables-restore --noflush`, for a namespace that has none of our
    /// rules yet.
    pub fn iptables(&self) -> (String, String) {
        (
            iptables::render(self.options, iptables::Family::V4, iptables::Jumps::Add),
            iptables::render(self.options, iptables::Family::V6, iptables::Jumps::Add),
        )
    }
}
