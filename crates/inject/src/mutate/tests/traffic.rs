//! What of a pod's traffic and probes goes to the sidecar.

use super::*;

#[test]
fn ipt_06_lists_of_mesh_config_and_pod_are_merged() {
    let annotations = json!({
        "openservicemesh.io/outbound-port-exclusion-list": "6060, 7070,80",
        "openservicemesh.io/inbound-port-exclusion-list": "9000",
        "openservicemesh.io/outbound-ip-range-exclusion-list": "10.1.0.0/16 ,fd00::/8",
        "openservicemesh.io/outbound-ip-range-inclusion-list": "10.0.0.0/8",
    });
    let mesh = json!({
        "sidecar": {"localProxyMode": "PodIP"},
        "traffic": {
            "outboundPortExclusionList": [80, 443],
            "outboundIPRangeExclusionList": ["10.1.0.0/16"],
            "networkInterfaceExclusionList": ["net1"],
        },
    });
    assert_eq!(
        init_arguments(&injected(annotations, web(), mesh)),
        [
            "init",
            "--outbound-ip-range-exclusion=10.1.0.0/16,fd00::/8",
            "--outbound-ip-range-inclusion=10.0.0.0/8",
            "--outbound-port-exclusion=80,443,6060,7070",
            "--inbound-port-exclusion=9000",
            "--network-interface-exclusion=net1",
            "--local-proxy-mode=PodIP",
        ]
    );
}

#[test]
fn ipt_07_invalid_exclusions_are_refused() {
    for (key, list, message) in [
        (
            "outbound-port-exclusion-list",
            "6060, abc",
            "Invalid port value 'abc' specified for annotation 'openservicemesh.io/outbound-port-exclusion-list'",
        ),
        (
            "inbound-port-exclusion-list",
            "0",
            "Invalid port value '0' specified for annotation 'openservicemesh.io/inbound-port-exclusion-list'",
        ),
        (
            "outbound-port-exclusion-list",
            "65536",
            "Invalid port value '65536' specified for annotation 'openservicemesh.io/outbound-port-exclusion-list'",
        ),
        (
            "outbound-ip-range-exclusion-list",
            "1.2.3.4",
            "Invalid IP range '1.2.3.4' specified for annotation 'openservicemesh.io/outbound-ip-range-exclusion-list'",
        ),
        (
            "outbound-ip-range-inclusion-list",
            "foo/32",
            "Invalid IP range 'foo/32' specified for annotation 'openservicemesh.io/outbound-ip-range-inclusion-list'",
        ),
    ] {
        let annotations = json!({format!("openservicemesh.io/{key}"): list});
        assert_eq!(
            patched(&pod(annotations, web()), &joined(), &config(json!({}))),
            Err(message.to_owned())
        );
    }
    // What the definition's unanchored pattern lets through.
    let odd = config(json!({"traffic": {"outboundIPRangeExclusionList": ["x1.2.3.4/99"]}}));
    let refused = patched(&pod(json!({}), web()), &joined(), &odd);
    assert_eq!(
        refused,
        Err(
            "Invalid value 'x1.2.3.4/99' in MeshConfig traffic.outboundIPRangeExclusionList"
                .to_owned()
        )
    );
}

#[test]
fn hp_04_probes_are_pointed_to_the_sidecar() {
    let spec = json!({"containers": [
        {
            "name": "web",
            "ports": [{"name": "http", "containerPort": 8080}],
            "livenessProbe": {"httpGet": {"path": "/healthz?full=1", "port": "http", "httpHeaders": [{"name": "Host", "value": "a"}]}, "timeoutSeconds": 3, "periodSeconds": 7},
            "readinessProbe": {"tcpSocket": {"port": 8080}},
            "startupProbe": {"exec": {"command": ["true"]}},
        },
        {
            "name": "tls",
            "livenessProbe": {"httpGet": {"path": "/up", "port": 8443, "scheme": "HTTPS"}},
            "readinessProbe": {"httpGet": {"path": "ready", "port": 8081}},
            "startupProbe": {"httpGet": {"path": "/", "port": "nothing"}},
        },
        {"name": "tls2", "livenessProbe": {"httpGet": {"path": "/up", "port": 9443, "scheme": "HTTPS"}}},
        {"name": "elsewhere", "livenessProbe": {"httpGet": {"path": "/", "port": 80, "host": "example.org"}}},
    ]});
    let elsewhere = spec["containers"][3].clone();
    let pod = injected(json!({}), spec, json!({}));
    let containers = pod["spec"]["containers"].as_array().unwrap();
    assert_eq!(
        containers[0]["livenessProbe"],
        json!({"httpGet": {"path": "/osm-liveness-probe/web", "port": 15901, "httpHeaders": [{"name": "Host", "value": "a"}]}, "timeoutSeconds": 3, "periodSeconds": 7})
    );
    let tcp_check = |port: &str| json!({"httpGet": {"path": "/osm-healthcheck", "port": 15904, "httpHeaders": [{"name": "Original-Tcp-Port", "value": port}]}});
    assert_eq!(containers[0]["readinessProbe"], tcp_check("8080"));
    assert_eq!(
        containers[0]["startupProbe"],
        json!({"exec": {"command": ["true"]}})
    );
    assert_eq!(
        containers[1]["livenessProbe"],
        json!({"httpGet": {"path": "/up", "port": 15901, "scheme": "HTTPS"}})
    );
    assert_eq!(
        containers[2]["livenessProbe"],
        tcp_check("9443"),
        "one TLS probe of a kind can be passed through"
    );
    assert_eq!(containers[3], elsewhere);
    let sidecar = sidecar(&pod);
    let names: Vec<&str> = sidecar["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "proxy-admin",
            "proxy-inbound",
            "proxy-metrics",
            "liveness-port",
            "readiness-port",
            "startup-port"
        ]
    );
    let served: Value =
        serde_json::from_str(variable(sidecar, "OSM_PROBES")["value"].as_str().unwrap()).unwrap();
    assert_eq!(
        served,
        json!([
            {"port": 15901, "path": "/osm-liveness-probe/web", "scheme": "HTTP", "targetPort": 8080, "targetPath": "/healthz?full=1", "timeoutSeconds": 3},
            {"port": 15901, "path": "", "scheme": "HTTPS", "targetPort": 8443, "targetPath": "", "timeoutSeconds": 1},
            {"port": 15902, "path": "/osm-readiness-probe/tls", "scheme": "HTTP", "targetPort": 8081, "targetPath": "/ready", "timeoutSeconds": 1},
            {"port": 15903, "path": "/osm-startup-probe/tls", "scheme": "HTTP", "targetPort": 0, "targetPath": "/", "timeoutSeconds": 1},
        ])
    );
}
