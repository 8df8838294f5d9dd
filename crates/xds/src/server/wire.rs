//! Between the protocol's messages and the state machine's values.

use bytes::{Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::rpc::Status;
use prost::Message;

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
            resources: response.items().map(|item| item.any()).collect(),
            version_info: response.version,
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce,
            control_plane: Some(control_plane()),
            ..Self::default()
        }
    }
}

impl From<Response> for DeltaDiscoveryResponse {
    fn from(response: Response) -> Self {
        let resources = response.items().map(|item| Resource {
            name: item.name().to_owned(),
            version: item.version().to_owned(),
            resource: Some(item.any()),
            ..Resource::default()
        });
        Self {
            resources: resources.collect(),
            system_version_info: response.version,
            type_url: response.kind.type_url().to_owned(),
            removed_resources: response.removed,
            nonce: response.nonce,
            control_plane: Some(control_plane()),
            ..Self::default()
        }
    }
}

impl Response {
    /// This as an encoded delta response: what many are told in a piece of its own, which is not copied.
    pub fn encode_delta(&self) -> (Option<Bytes>, Bytes) {
        let rest = DeltaDiscoveryResponse {
            system_version_info: self.version.clone(),
            type_url: self.kind.type_url().to_owned(),
            removed_resources: self.removed.clone(),
            nonce: self.nonce.clone(),
            control_plane: Some(control_plane()),
            ..DeltaDiscoveryResponse::default()
        };
        let fields = self.resources.iter().map(|item| item.field().len());
        let length = fields.sum::<usize>() + rest.encoded_len();
        let mut own = BytesMut::with_capacity(length);
        for item in &self.resources {
            own.extend_from_slice(item.field());
        }
        rest.encode_raw(&mut own);
        let common = self.common.as_ref().map(|set| set.fields().clone());
        (common, own.freeze())
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
