//! Limits that a rate limit service counts: what it is asked about connections and requests.

use std::{sync::Arc, time::Duration};

/// A rate limit service, and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaService {
    /// Host name or address of the gRPC service.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// Domain of the descriptors.
    pub domain: Arc<str>,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// What is limited passes when there is no answer.
    pub fail_open: bool,
}

/// A limit on connections to one pod's opaque ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionQuota {
    /// Who counts.
    pub service: QuotaService,
    /// What is counted: keys and values, fixed.
    pub descriptors: Vec<Vec<(Arc<str>, Arc<str>)>>,
}

/// A limit on requests to one service's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestQuota {
    /// Who counts.
    pub service: QuotaService,
    /// Status of the answer above the limit.
    pub status: u16,
    /// Whether answers tell the limit (`x-ratelimit-*`).
    pub told: bool,
}

/// What is counted of a request; nothing if one of the entries has nothing to say.
pub type Descriptor = Vec<DescriptorEntry>;

/// A part of a descriptor, in the words of Envoy's rate limit actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DescriptorEntry {
    /// A fixed value.
    Fixed {
        /// Key; `None` = `generic_key`.
        key: Option<Arc<str>>,
        /// Value.
        value: Arc<str>,
    },
    /// The client's address, key `remote_address`.
    RemoteAddress,
    /// The value of a header; nothing without the header.
    Header {
        /// Key.
        key: Arc<str>,
        /// Name of the header.
        name: Arc<str>,
    },
    /// A fixed value where all headers are as said.
    HeaderMatch {
        /// Key; `None` = `header_match`.
        key: Option<Arc<str>>,
        /// Value.
        value: Arc<str>,
        /// False: where they are not.
        expected: bool,
        /// Names of the headers and what is said of each; never empty.
        headers: Vec<(Arc<str>, HeaderIs)>,
    },
}

/// What is said of a header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderIs {
    /// This.
    Exact(Arc<str>),
    /// It begins with this.
    Prefix(Arc<str>),
    /// It ends with this.
    Suffix(Arc<str>),
    /// It matches this expression, whole.
    Regex(Arc<str>),
    /// It contains this.
    Contains(Arc<str>),
    /// There is one (or there is none).
    Present(bool),
}

/// What one of a listener's services asks for: a descriptor and by which of the chain's quotas it is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Index into the chain's quotas.
    pub quota: u32,
    /// What is counted.
    pub descriptor: Descriptor,
}

// === impl QuotaService ===

impl QuotaService {
    /// Name of the cluster it is behind, as upstream's.
    pub fn cluster(&self) -> String {
        format!("{}|{}", self.host, self.port)
    }
}
