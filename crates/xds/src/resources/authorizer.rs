//! The external authorizer: the filter that asks it, and the cluster it is behind.

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::Cluster,
            core::v3::{ApiVersion, GrpcService, grpc_service},
        },
        extensions::filters::http::ext_authz::v3::{BufferSettings, ExtAuthz, ext_authz},
    },
    google::protobuf::Any,
};
use model::{Authorizer, ClusterKind, ConnectionLimits, ProxyConfig, UpstreamHttp};

use super::{build, cluster};

/// Name of the cluster.
const CLUSTER: &str = "ext-authz";

/// How much of a request's body is shown to the authorizer, as upstream.
const BODY_BYTES: u32 = 8192;

pub(super) fn filter(authorizer: &Authorizer) -> Any {
    build::any(&ExtAuthz {
        services: Some(ext_authz::Services::GrpcService(GrpcService {
            timeout: Some(build::duration(authorizer.timeout)),
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(
                grpc_service::EnvoyGrpc {
                    cluster_name: CLUSTER.to_owned(),
                    ..Default::default()
                },
            )),
            ..Default::default()
        })),
        transport_api_version: ApiVersion::V3.into(),
        failure_mode_allow: authorizer.fail_open,
        with_request_body: Some(BufferSettings {
            max_request_bytes: BODY_BYTES,
            allow_partial_message: true,
            ..Default::default()
        }),
        stat_prefix: authorizer.stat_prefix.to_string(),
        ..Default::default()
    })
}

/// The authorizer is reached in clear text, as upstream does.
pub(super) fn cluster(config: &ProxyConfig, authorizer: &Authorizer) -> Cluster {
    let value = model::Cluster {
        name: CLUSTER.into(),
        kind: ClusterKind::Dns {
            host: authorizer.host.clone(),
            port: authorizer.port,
        },
        http: UpstreamHttp::Http2,
        limits: ConnectionLimits::default(),
    };
    cluster::cluster(config, &value)
}
