//! A thousand broken policies straight into the index, past schema and webhook: none stops the others, each that
//! cannot be read is told so, and no proxy's configuration changes.

use std::sync::Arc;

use api::access::v1alpha3::TrafficTarget;
use api::policy::v1alpha1::{Egress, IngressBackend, Retry, UpstreamTrafficSetting};
use api::specs::v1alpha4::{HTTPRouteGroup, TCPRoute};
use api::split::v1alpha4::TrafficSplit;
use families::{Index, Kind};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::inform::Change;
use crate::lenient::{Lenient, Watched};

fn read<K>(kind: Kind, object: Value) -> Change
where
    K: DeserializeOwned + kube::Resource<DynamicType = ()>,
    families::Object: From<K>,
{
    let read: Lenient<K> = serde_json::from_value(object).expect("metadata is valid");
    read.into_change(kind)
}

fn change(object: Value) -> Change {
    match object["kind"].as_str().unwrap_or_default() {
        "TrafficTarget" => read::<TrafficTarget>(Kind::TrafficTarget, object),
        "HTTPRouteGroup" => read::<HTTPRouteGroup>(Kind::HttpRouteGroup, object),
        "TCPRoute" => read::<TCPRoute>(Kind::TcpRoute, object),
        "TrafficSplit" => read::<TrafficSplit>(Kind::TrafficSplit, object),
        "Egress" => read::<Egress>(Kind::Egress, object),
        "IngressBackend" => read::<IngressBackend>(Kind::IngressBackend, object),
        "Retry" => read::<Retry>(Kind::Retry, object),
        "UpstreamTrafficSetting" => {
            read::<UpstreamTrafficSetting>(Kind::UpstreamTrafficSetting, object)
        }
        other => panic!("{other}"),
    }
}

fn put<K: DeserializeOwned + Into<families::Object>>(index: &mut Index, object: Value) {
    index.apply(serde_json::from_value::<K>(object).unwrap().into());
}

/// A client that may reach a server, and the victim of the broken policies.
fn cluster() -> Index {
    use k8s_openapi::api::core::v1 as core;
    let mut index = Index::new(families::Settings {
        mesh_name: "osm".into(),
        osm_namespace: "osm-system".into(),
        trust_domain: "cluster.local".into(),
    });
    put::<api::config::v1alpha2::MeshConfig>(
        &mut index,
        json!({
            "metadata": { "name": "osm-mesh-config", "namespace": "osm-system" },
            "spec": { "featureFlags": { "enableEgressPolicy": true, "enableIngressBackendPolicy": true, "enableRetryPolicy": true } },
        }),
    );
    let labels = json!({ "openservicemesh.io/monitored-by": "osm" });
    put::<core::Namespace>(
        &mut index,
        json!({ "metadata": { "name": "n", "labels": labels } }),
    );
    for (number, app) in ["client", "server", "victim"].iter().enumerate() {
        let ip = format!("10.0.0.{}", number + 1);
        put::<core::Pod>(
            &mut index,
            json!({
                "metadata": { "name": app, "namespace": "n", "uid": app, "labels": { "osm-proxy-uuid": app } },
                "spec": { "serviceAccountName": app, "containers": [] },
                "status": { "podIP": ip, "phase": "Running" },
            }),
        );
        put::<core::Service>(
            &mut index,
            json!({
                "metadata": { "name": app, "namespace": "n" },
                "spec": { "clusterIP": format!("10.96.0.{}", number + 1), "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
            }),
        );
        put::<core::Endpoints>(
            &mut index,
            json!({
                "metadata": { "name": app, "namespace": "n" },
                "subsets": [{
                    "addresses": [{ "ip": ip, "targetRef": { "kind": "Pod", "name": app, "namespace": "n" } }],
                    "ports": [{ "name": "http", "port": 8080 }],
                }],
            }),
        );
    }
    put::<HTTPRouteGroup>(
        &mut index,
        json!({ "metadata": { "name": "server", "namespace": "n" }, "spec": { "matches": [{ "name": "everything" }] } }),
    );
    let account = |name: &str| json!({ "kind": "ServiceAccount", "name": name, "namespace": "n" });
    put::<TrafficTarget>(
        &mut index,
        json!({ "metadata": { "name": "server", "namespace": "n" }, "spec": {
            "destination": account("server"), "sources": [account("client")],
            "rules": [{ "kind": "HTTPRouteGroup", "name": "server" }],
        } }),
    );
    index
}

#[test]
fn a_thousand_broken_objects_disturb_nobody_and_each_is_told() {
    let mut index = cluster();
    let resources = |index: &Index, uuid: &str| {
        let mesh = index.mesh();
        let workload = mesh.workload(uuid).expect("the pod").clone();
        let trust = xds::resources::TrustBundle { pem: String::new() };
        Arc::new(xds::resources::snapshot(&mesh.compile(&workload), &trust))
    };
    let before = ["client", "server"].map(|uuid| resources(&index, uuid));
    let objects = e2e::broken::objects("n", 1000, 5);
    let mut unreadable = 0;
    for object in objects {
        match change(object) {
            Change::Apply(object) => {
                index.judge(&object);
                index.apply(object);
            }
            Change::Unreadable(_, _, name, why) => {
                assert!(name.starts_with("broken-") && !why.is_empty());
                unreadable += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    let built = index.build();
    let broken = built
        .statuses
        .iter()
        .filter(|((_, key), _)| key.1.starts_with("broken-"));
    let (mut told, mut fine) = (0, 0);
    for (_, outcome) in broken {
        if *outcome == families::Outcome::Committed {
            fine += 1;
        } else {
            told += 1;
        }
    }
    assert_eq!(unreadable + told + fine, 1000);
    assert!(unreadable > 100 && told > 100, "{unreadable} {told} {fine}");
    assert!(
        fine < 300,
        "{fine} are in effect: what breaks nothing tests nothing"
    );
    for (uuid, before) in ["client", "server"].into_iter().zip(before) {
        assert!(
            resources(&index, uuid) == before,
            "the configuration of {uuid} changed"
        );
    }
    // The victim's own may be anything, but it must be something.
    resources(&index, "victim");
}
