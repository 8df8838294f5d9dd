//! EndpointSlices of a Service: per family, per set of ports, at most a hundred endpoints each

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::backends::{
    Family, address, families, hostname, node_name, reference, state, target_port,
};
use super::subsets::{labels, selects};
use crate::owner::controller_reference;
use crate::template::suffix;

/// Label with the name of the Service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Slices made from pods.
const BY_SELECTOR: &str = "endpointslice-controller.k8s.io";
/// Slices that repeat Endpoints a user wrote.
const BY_HAND: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints that are not to be repeated: their author makes the slices too.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Kubernetes' default of `--max-endpoints-per-slice`.
const MOST: usize = 100;

/// Whether this controller keeps the slice, and for this Service.
pub(super) fn is_ours(slice: &EndpointSlice, service: &str) -> bool {
    let label = |key| slice.labels().get(key).map(String::as_str);
    label(SERVICE_NAME) == Some(service) && matches!(label(MANAGED_BY), Some(BY_SELECTOR | BY_HAND))
}

/// The slices a Service is to have: from its pods, or without a selector from its Endpoints.
pub(super) fn slices(
    service: &Service,
    pods: &[Arc<Pod>],
    manual: Option<&Endpoints>,
) -> Vec<EndpointSlice> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    if spec.selector.is_none() {
        let repeated = manual.filter(|endpoints| {
            endpoints
                .labels()
                .get(SKIP_MIRROR)
                .is_none_or(|skip| skip != "true")
        });
        let subsets = repeated.and_then(|endpoints| endpoints.subsets.as_ref());
        return subsets
            .map(|subsets| mirrored(service, subsets))
            .unwrap_or_default();
    }
    let families = families(service);
    families
        .into_iter()
        .flat_map(|family| of_family(service, pods, family))
        .collect()
}

/// Ports by what tells them apart: name, number, protocol, application protocol.
type Ports = Vec<(Option<String>, i32, String, Option<String>)>;

fn of_family(service: &Service, pods: &[Arc<Pod>], family: Family) -> Vec<EndpointSlice> {
    let spec = service.spec.clone().unwrap_or_default();
    let publish_not_ready = spec.publish_not_ready_addresses == Some(true);
    let mut by_ports: BTreeMap<Ports, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| selects(service, pod)) {
        let (Some(ip), Some(state)) = (address(pod, family), state(pod, publish_not_ready)) else {
            continue;
        };
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((
                port.name.clone().or(Some(String::new())),
                target_port(pod, port)?,
                protocol,
                port.app_protocol.clone(),
            ))
        });
        let endpoint = Endpoint {
            addresses: vec![ip.clone()],
            conditions: Some(EndpointConditions {
                ready: Some(state.ready),
                serving: Some(state.serving),
                terminating: Some(state.terminating),
            }),
            hostname: hostname(pod, service),
            node_name: node_name(pod),
            target_ref: Some(reference(pod)),
            ..Endpoint::default()
        };
        by_ports
            .entry(ports.collect())
            .or_default()
            .insert(ip, endpoint);
    }
    if by_ports.is_empty() {
        // A Service without endpoints keeps one empty slice, so that it can be told from one not yet looked at.
        return vec![slice(
            service,
            BY_SELECTOR,
            family,
            &Vec::new(),
            0,
            Vec::new(),
        )];
    }
    let sliced = by_ports.into_iter().flat_map(|(ports, endpoints)| {
        chunked(
            service,
            BY_SELECTOR,
            family,
            &ports,
            endpoints.into_values(),
        )
    });
    sliced.collect()
}

fn mirrored(service: &Service, subsets: &[EndpointSubset]) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for subset in subsets {
        let ports = subset.ports.iter().flatten();
        let ports: Ports = ports
            .map(|p| {
                (
                    p.name.clone().or(Some(String::new())),
                    p.port,
                    p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                    p.app_protocol.clone(),
                )
            })
            .collect();
        for family in [Family::V4, Family::V6] {
            let of = |addresses: &Option<Vec<EndpointAddress>>, ready: bool| {
                let addresses = addresses
                    .clone()
                    .unwrap_or_default()
                    .into_iter()
                    .filter(move |a| Family::of(&a.ip) == Some(family));
                addresses
                    .map(move |address| copied(address, ready))
                    .collect::<Vec<_>>()
            };
            let endpoints = [
                of(&subset.addresses, true),
                of(&subset.not_ready_addresses, false),
            ]
            .concat();
            slices.extend(chunked(
                service,
                BY_HAND,
                family,
                &ports,
                endpoints.into_iter(),
            ));
        }
    }
    slices
}

fn copied(address: EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname,
        node_name: address.node_name,
        target_ref: address.target_ref,
        ..Endpoint::default()
    }
}

fn chunked(
    service: &Service,
    manager: &str,
    family: Family,
    ports: &Ports,
    endpoints: impl Iterator<Item = Endpoint>,
) -> Vec<EndpointSlice> {
    let endpoints: Vec<Endpoint> = endpoints.collect();
    let chunks = endpoints.chunks(MOST).enumerate();
    chunks
        .map(|(at, chunk)| slice(service, manager, family, ports, at, chunk.to_vec()))
        .collect()
}

/// One slice; its name follows from what it is for, so that making it again finds it.
fn slice(
    service: &Service,
    manager: &str,
    family: Family,
    ports: &Ports,
    at: usize,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.name_any();
    let mut labels = labels(service);
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), manager.to_owned());
    let identity = suffix(&[
        &service.uid().unwrap_or_default(),
        family.name(),
        &format!("{ports:?}"),
        &at.to_string(),
    ]);
    let ports = ports
        .iter()
        .cloned()
        .map(|(name, port, protocol, app_protocol)| EndpointPort {
            name,
            port: Some(port),
            protocol: Some(protocol),
            app_protocol,
        });
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{identity}")),
            namespace: service.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.name().to_owned(),
        endpoints,
        ports: Some(ports.collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::subsets::tests::{pod, service};
    use super::*;

    #[test]
    fn a_dual_stack_service_has_a_slice_per_family() {
        let service = service(
            json!({"ipFamilies": ["IPv4", "IPv6"], "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}),
        );
        let slices = slices(
            &service,
            &[pod("a", &["10.0.0.1", "fd00::1"], true, json!({}))],
            None,
        );
        let seen: Vec<_> = slices
            .iter()
            .map(|s| {
                (
                    s.address_type.as_str(),
                    s.endpoints[0].addresses[0].as_str(),
                )
            })
            .collect();
        assert_eq!(seen, [("IPv4", "10.0.0.1"), ("IPv6", "fd00::1")]);
        assert_ne!(slices[0].name_any(), slices[1].name_any());
        assert!(slices.iter().all(|slice| is_ours(slice, "web")));
    }

    #[test]
    fn a_pod_on_its_way_out_serves_but_is_not_ready() {
        let mut going = (*pod("b", &["10.0.0.2"], true, json!({}))).clone();
        going.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let slices = slices(
            &service(json!({"ports": [{"port": 1}]})),
            &[Arc::new(going)],
            None,
        );
        let conditions = slices[0].endpoints[0].conditions.clone().unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(false), Some(true), Some(true))
        );
    }

    #[test]
    fn more_than_a_hundred_endpoints_take_several_slices() {
        for (count, wanted) in [(0, 1), (99, 1), (100, 1), (101, 2)] {
            let pods: Vec<_> = (0..count)
                .map(|i| pod(&format!("p{i}"), &[&format!("10.0.1.{i}")], true, json!({})))
                .collect();
            assert_eq!(
                slices(&service(json!({"ports": [{"port": 1}]})), &pods, None).len(),
                wanted,
                "{count}"
            );
        }
    }

    #[test]
    fn endpoints_written_by_hand_are_repeated() {
        let mut service = service(json!({"ports": [{"port": 1}]}));
        service.spec.as_mut().unwrap().selector = None;
        let manual: Endpoints = serde_json::from_value(json!({"metadata": {}, "subsets": [
            {"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "ports": [{"port": 9}]}]}))
        .unwrap();
        let families: Vec<_> = slices(&service, &[], Some(&manual))
            .into_iter()
            .map(|slice| slice.address_type)
            .collect();
        assert_eq!(families, ["IPv4", "IPv6"]);

        let mut skipped = manual.clone();
        skipped.metadata.labels = Some([(SKIP_MIRROR.to_owned(), "true".to_owned())].into());
        assert_eq!(slices(&service, &[], Some(&skipped)), []);
    }
}
