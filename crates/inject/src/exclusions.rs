//! What of a pod's traffic is intercepted: MeshConfig's lists and the pod's own, together.

use api::config::v1alpha2::MeshConfigSpec;
use api::labels::{
    INBOUND_PORT_EXCLUSION, OUTBOUND_IP_RANGE_EXCLUSION, OUTBOUND_IP_RANGE_INCLUSION,
    OUTBOUND_PORT_EXCLUSION,
};
use intercept::{LocalProxyMode, Options, Port};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;

use crate::error::InjectError;

/// The settings of the pod's init container.
pub fn interception(pod: &Pod, mesh_config: &MeshConfigSpec) -> Result<Options, InjectError> {
    let traffic = &mesh_config.traffic;
    let interface = |name: &String| {
        name.parse().map_err(|_| InjectError::MeshConfig {
            field: "traffic.networkInterfaceExclusionList",
            value: name.clone(),
        })
    };
    Ok(Options {
        outbound_ip_range_exclusion: union(
            ranges_of_mesh(
                "traffic.outboundIPRangeExclusionList",
                &traffic.outbound_ip_range_exclusion_list,
            )?,
            ranges_of_pod(pod, OUTBOUND_IP_RANGE_EXCLUSION)?,
        ),
        outbound_ip_range_inclusion: union(
            ranges_of_mesh(
                "traffic.outboundIPRangeInclusionList",
                &traffic.outbound_ip_range_inclusion_list,
            )?,
            ranges_of_pod(pod, OUTBOUND_IP_RANGE_INCLUSION)?,
        ),
        outbound_port_exclusion: union(
            ports_of_mesh(
                "traffic.outboundPortExclusionList",
                &traffic.outbound_port_exclusion_list,
            )?,
            ports_of_pod(pod, OUTBOUND_PORT_EXCLUSION)?,
        ),
        inbound_port_exclusion: union(
            ports_of_mesh(
                "traffic.inboundPortExclusionList",
                &traffic.inbound_port_exclusion_list,
            )?,
            ports_of_pod(pod, INBOUND_PORT_EXCLUSION)?,
        ),
        network_interface_exclusion: traffic
            .network_interface_exclusion_list
            .iter()
            .map(interface)
            .collect::<Result<_, _>>()?,
        local_proxy_mode: match mesh_config.sidecar.local_proxy_mode.as_str() {
            "PodIP" => LocalProxyMode::PodIp,
            "" | "Localhost" => LocalProxyMode::Localhost,
            other => {
                return Err(InjectError::MeshConfig {
                    field: "sidecar.localProxyMode",
                    value: other.to_owned(),
                });
            }
        },
        ..Options::default()
    })
}

/// Both lists in order, each value once.
fn union<T: PartialEq>(mut first: Vec<T>, second: Vec<T>) -> Vec<T> {
    for value in second {
        if !first.contains(&value) {
            first.push(value);
        }
    }
    first
}

fn ranges_of_mesh(field: &'static str, ranges: &[String]) -> Result<Vec<IpNet>, InjectError> {
    let parse = |range: &String| {
        range.parse().map_err(|_| InjectError::MeshConfig {
            field,
            value: range.clone(),
        })
    };
    ranges.iter().map(parse).collect()
}

fn ports_of_mesh(field: &'static str, ports: &[u16]) -> Result<Vec<Port>, InjectError> {
    let parse = |port: &u16| {
        Port::try_from(*port).map_err(|_| InjectError::MeshConfig {
            field,
            value: port.to_string(),
        })
    };
    ports.iter().map(parse).collect()
}

fn ranges_of_pod(pod: &Pod, key: &'static str) -> Result<Vec<IpNet>, InjectError> {
    elements(pod, key)
        .map(|range| {
            range.parse().map_err(|_| InjectError::RangeAnnotation {
                key,
                value: range.to_owned(),
            })
        })
        .collect()
}

fn ports_of_pod(pod: &Pod, key: &'static str) -> Result<Vec<Port>, InjectError> {
    elements(pod, key)
        .map(|port| {
            port.parse().map_err(|_| InjectError::PortAnnotation {
                key,
                value: port.to_owned(),
            })
        })
        .collect()
}

fn elements<'a>(pod: &'a Pod, key: &str) -> impl Iterator<Item = &'a str> {
    let list = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(key));
    list.into_iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
}
