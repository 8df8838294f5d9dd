//! Both ADS dialects behind one shape: what the machine sends and what it receives.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;
use prost::Message;

/// Which ADS dialect the stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Incremental xDS (`DeltaAggregatedResources`).
    #[default]
    Delta,
    /// State of the world (`StreamAggregatedResources`).
    StateOfTheWorld,
}

/// A request to the server, in the stream's dialect.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// For a delta stream.
    Delta(Box<DeltaDiscoveryRequest>),
    /// For a state-of-the-world stream.
    StateOfTheWorld(Box<DiscoveryRequest>),
}

impl Request {
    /// The type URL the request is about.
    pub fn type_url(&self) -> &str {
        match self {
            Request::Delta(request) => &request.type_url,
            Request::StateOfTheWorld(request) => &request.type_url,
        }
    }

    /// The refusal it carries, if it is a NACK.
    pub fn error(&self) -> Option<&Status> {
        match self {
            Request::Delta(request) => request.error_detail.as_ref(),
            Request::StateOfTheWorld(request) => request.error_detail.as_ref(),
        }
    }

    pub(super) fn set_node(&mut self, node: Node) {
        match self {
            Request::Delta(request) => request.node = Some(node),
            Request::StateOfTheWorld(request) => request.node = Some(node),
        }
    }
}

/// One resource of a response.
#[derive(Debug, Clone)]
pub struct Item {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) any: Option<Any>,
}

/// A response of the server, in one shape for both dialects.
#[derive(Debug, Clone)]
pub struct Response {
    pub(super) type_url: String,
    pub(super) nonce: String,
    pub(super) version: String,
    pub(super) items: Vec<Item>,
    pub(super) removed: Vec<String>,
    /// A state-of-the-world response of a wildcard kind lists everything there is.
    pub(super) complete: bool,
}

/// The first field of every xDS resource is its name.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

impl From<DeltaDiscoveryResponse> for Response {
    fn from(response: DeltaDiscoveryResponse) -> Response {
        let items = response
            .resources
            .into_iter()
            .map(|resource| Item {
                name: resource.name,
                version: resource.version,
                any: resource.resource,
            })
            .collect();
        Response {
            type_url: response.type_url,
            nonce: response.nonce,
            version: response.system_version_info,
            items,
            removed: response.removed_resources,
            complete: false,
        }
    }
}

impl From<DiscoveryResponse> for Response {
    fn from(response: DiscoveryResponse) -> Response {
        let items = response
            .resources
            .into_iter()
            .map(|any| Item {
                // An undecodable resource keeps an empty name: the machine refuses it.
                name: Named::decode(any.value.as_slice())
                    .map(|named| named.name)
                    .unwrap_or_default(),
                version: response.version_info.clone(),
                any: Some(any),
            })
            .collect();
        Response {
            type_url: response.type_url,
            nonce: response.nonce,
            version: response.version_info,
            items,
            removed: Vec::new(),
            complete: true,
        }
    }
}
