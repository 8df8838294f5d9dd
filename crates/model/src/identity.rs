//! Who a workload is: its ServiceAccount, and the SPIFFE name by which certificates say so.

use std::{fmt, sync::Arc};

/// A ServiceAccount, the identity of workloads inside one mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAccount {
    /// Namespace of the account; the same name in another namespace is somebody else.
    pub namespace: Arc<str>,
    /// Name of the account.
    pub name: Arc<str>,
}

/// A ServiceAccount within a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Trust domain, e.g. `cluster.local`.
    pub trust_domain: Arc<str>,
    /// The account.
    pub account: ServiceAccount,
}

// === impl ServiceAccount ===

impl ServiceAccount {
    /// The account `name` of `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The SPIFFE URI in OSM's order: account first, then namespace.
    pub fn spiffe(&self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}/{}/{}", self.name, self.namespace)
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl Identity ===

impl Identity {
    /// The SPIFFE URI of this identity.
    pub fn spiffe(&self) -> String {
        self.account.spiffe(&self.trust_domain)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spiffe())
    }
}
