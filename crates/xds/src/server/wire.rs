//! Between the protocol's messages and the state machine's values.

use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::rpc::Status;

use super::{MESSAGE_BOUND, Request, Response};

impl From<DiscoveryRequest> for Request {
    fn from(message: DiscoveryRequest) -> Self {
        Self {
            type_url: message.type_url,
            nonce: message.response_nonce,
            version: message.version_info,
            refusal: message.error_detail.map(refusal),
            subscribe: message.resource_names,
            unsubscribe: Vec::new(),
            held: Vec::new(),
        }
    }
}

impl From<DeltaDiscoveryRequest> for Request {
    fn from(message: DeltaDiscoveryRequest) -> Self {
        Self {
            type_url: message.type_url,
            nonce: message.response_nonce,
            version: String::new(),
            refusal: message.error_detail.map(refusal),
            subscribe: message.resource_names_subscribe,
            unsubscribe: message.resource_names_unsubscribe,
            held: message.initial_resource_versions.into_iter().collect(),
        }
    }
}

impl From<Response> for DiscoveryResponse {
    fn from(response: Response) -> Self {
        Self {
            version_info: response.version,
            resources: response
                .resources
                .into_iter()
                .map(|(_, _, any)| (*any).clone())
                .collect(),
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce,
            control_plane: Some(control_plane()),
            ..Self::default()
        }
    }
}

impl From<Response> for DeltaDiscoveryResponse {
    fn from(response: Response) -> Self {
        let resources = response
            .resources
            .into_iter()
            .map(|(name, version, any)| Resource {
                name,
                version,
                resource: Some((*any).clone()),
                ..Resource::default()
            });
        Self {
            system_version_info: response.version,
            resources: resources.collect(),
            type_url: response.kind.type_url().to_owned(),
            removed_resources: response.removed,
            nonce: response.nonce,
            control_plane: Some(control_plane()),
            ..Self::default()
        }
    }
}

fn control_plane() -> ControlPlane {
    ControlPlane {
        identifier: "osm-controller".to_owned(),
    }
}

fn refusal(status: Status) -> String {
    let mut message = status.message;
    if message.len() > MESSAGE_BOUND {
        let end = (0..=MESSAGE_BOUND)
            .rev()
            .find(|at| message.is_char_boundary(*at))
            .unwrap_or(0);
        message.truncate(end);
    }
    message
}
