//! Endpoints, reduced to what is read of them.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};

/// What is read of an Endpoints object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointsFacts {
    pub subsets: Vec<Subset>,
}

/// Addresses that have the same ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subset {
    /// Name (empty for a single unnamed port) and number of TCP ports.
    pub ports: Vec<(Arc<str>, u16)>,
    pub addresses: Vec<Address>,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub ip: IpAddr,
    pub pod: Option<Arc<str>>,
    pub hostname: Option<Arc<str>>,
    pub ready: bool,
}

impl EndpointsFacts {
    pub(crate) fn new(endpoints: &Endpoints) -> Self {
        let subsets = endpoints.subsets.as_deref().unwrap_or_default();
        let subsets = subsets.iter().map(|subset| {
            let ports = subset.ports.as_deref().unwrap_or_default().iter();
            let tcp = ports.filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP")));
            let ready = subset.addresses.as_deref().unwrap_or_default().iter();
            let unready = subset
                .not_ready_addresses
                .as_deref()
                .unwrap_or_default()
                .iter();
            let ready = ready.filter_map(|address| Address::new(address, true));
            let unready = unready.filter_map(|address| Address::new(address, false));
            let mut addresses: Vec<Address> = ready.chain(unready).collect();
            // The controller's order is not stable; ours must be.
            addresses.sort();
            Subset {
                ports: tcp
                    .filter_map(|port| {
                        let number = u16::try_from(port.port).ok().filter(|port| *port > 0)?;
                        Some((port.name.as_deref().unwrap_or_default().into(), number))
                    })
                    .collect(),
                addresses,
            }
        });
        Self {
            subsets: subsets.collect(),
        }
    }
}

impl Address {
    fn new(address: &EndpointAddress, ready: bool) -> Option<Self> {
        let target = address.target_ref.as_ref();
        let pod = target.filter(|target| target.kind.as_deref() == Some("Pod"));
        Some(Self {
            ip: address.ip.parse().ok()?,
            pod: pod.and_then(|pod| pod.name.as_deref()).map(Into::into),
            hostname: address
                .hostname
                .as_deref()
                .filter(|name| !name.is_empty())
                .map(Into::into),
            ready,
        })
    }
}
