//! Meshes to write resources for.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod render;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use model::{
    Authorization, Authorizer, Backend, Bound, CircuitBreaker, ConnectionLimits, ConnectionQuota,
    Descriptor, DescriptorEntry, EgressPort, EgressProtocol, EgressRule, Endpoint, HeaderIs,
    HttpGrant, HttpMatch, IngressClients, IngressRule, IngressTls, Mesh, MeshParts, MeshSettings,
    PathLimit, PortSet, Protocol, Provenance, ProxyConfig, QuotaService, RequestLimit,
    RequestQuota, RetryPolicy, RetryRule, Service, ServiceAccount, ServicePort, Split,
    TlsParameters, TokenBucket, Tracing, UpstreamSetting, Workload,
};

/// Name and configuration of every case.
pub fn cases() -> Vec<(&'static str, ProxyConfig)> {
    vec![
        ("permissive-client", compile(permissive(), "client")),
        ("permissive-server", compile(permissive(), "web-0")),
        ("smi-client", compile(smi(), "client")),
        ("smi-server", compile(smi(), "web-0")),
        ("envoy-server", told_to_log(compile(smi(), "web-0"))),
        ("egress-client", compile(egress(), "client")),
        ("ingress-server", compile(ingress(), "web-0")),
        ("explained-server", compile(explained(), "web-0")),
        ("limits-client", compile(limits(), "client")),
        ("limits-server", compile(limits(), "web-0")),
        (
            "nothing",
            compile(
                MeshParts {
                    settings: settings(),
                    ..shop()
                },
                "nobody",
            ),
        ),
    ]
}

fn told_to_log(config: ProxyConfig) -> ProxyConfig {
    ProxyConfig {
        told_to_log: true,
        ..config
    }
}

fn compile(parts: MeshParts, uuid: &str) -> ProxyConfig {
    let mesh = Mesh::new(parts);
    mesh.compile(mesh.workload(uuid).unwrap())
}

fn settings() -> MeshSettings {
    MeshSettings {
        trust_domain: "cluster.local".into(),
        ..MeshSettings::default()
    }
}

fn permissive() -> MeshParts {
    MeshParts {
        settings: MeshSettings {
            permissive: true,
            egress_passthrough: true,
            ..settings()
        },
        splits: vec![split()],
        ..shop()
    }
}

fn smi() -> MeshParts {
    let tls = TlsParameters {
        cipher_suites: vec!["ECDHE-ECDSA-AES128-GCM-SHA256".into()],
        ..TlsParameters::default()
    };
    let target = Provenance::new("TrafficTarget", "shop", "buy");
    let grant =
        |name: &str, path: Option<&str>, methods: &[&str], headers: &[(&str, &str)]| HttpGrant {
            matches: http_match(path, methods, headers),
            provenance: target.rule(format!("HTTPRouteGroup/routes/{name}")),
        };
    let web = Authorization {
        provenance: target.clone(),
        destination: account("web"),
        sources: [account("client"), account("other")].into(),
        tcp: None,
        http: vec![
            grant("books", Some("/books.*"), &["GET", "HEAD"], &[]),
            grant(
                "agent",
                None,
                &["POST"],
                &[("user-agent", ".*curl.*"), (":authority", "web.*")],
            ),
            grant("all", None, &[], &[]),
        ],
    };
    let tcp = Authorization {
        provenance: Provenance::new("TrafficTarget", "shop", "tcp"),
        tcp: Some(PortSet::Only([7000, 7001].into())),
        http: Vec::new(),
        ..web.clone()
    };
    MeshParts {
        settings: MeshSettings { tls, ..settings() },
        authorizations: vec![web, tcp],
        ..shop()
    }
}

/// Refusals are explained to callers of the mesh, not to those before it.
fn explained() -> MeshParts {
    MeshParts {
        settings: MeshSettings {
            refusals_explained: true,
            ..settings()
        },
        authorizations: smi().authorizations,
        ..ingress()
    }
}

fn ingress() -> MeshParts {
    let rule = |port, sources: Option<&[&str]>, tls| IngressRule {
        provenance: Provenance::new("IngressBackend", "shop", "in").rule("backend web"),
        namespace: "shop".into(),
        service: "web".into(),
        port,
        sources: sources.map(|list| list.iter().map(|net| net.parse().unwrap()).collect()),
        tls,
    };
    let tls = |names: &[&str], clients| {
        Some(IngressTls {
            server_names: names.iter().map(|name| (*name).into()).collect(),
            clients,
        })
    };
    let named = IngressClients::Named(["gateway.edge.cluster.local".into()].into());
    MeshParts {
        settings: settings(),
        ingress: vec![
            rule(8080, Some(&["10.244.9.1/32", "fd00::1/128"]), None),
            rule(8080, None, tls(&[], named)),
            rule(8081, None, tls(&["shop.example"], IngressClients::Anyone)),
        ],
        ..shop()
    }
}

/// Everything an UpstreamTrafficSetting, a Retry and an external authorizer and a collector of traces add.
fn limits() -> MeshParts {
    let bucket = |fill| TokenBucket {
        capacity: fill + 10,
        fill,
        interval: Duration::from_secs(60),
    };
    let rate = |fill| RequestLimit {
        bucket: bucket(fill),
        status: 429,
        headers: vec![("x-limited".into(), "yes".into())],
    };
    let setting = |service: &str| UpstreamSetting {
        provenance: Provenance::new("UpstreamTrafficSetting", "shop", service),
        namespace: "shop".into(),
        service: service.into(),
        connections: ConnectionLimits {
            connections: Some(2),
            pending_requests: Some(1),
            requests: Some(3),
            retries: None,
            requests_per_connection: Some(7),
            connect_timeout: Some(Duration::from_millis(1500)),
            breaker: Some(Arc::new(breaker())),
        },
        connection_rate: Some(bucket(5)),
        request_rate: Some(rate(3)),
        connection_quota: Some(ConnectionQuota {
            service: quota_service(true),
            descriptors: vec![vec![("service".into(), service.into())]],
        }),
        request_quota: Some(RequestQuota {
            service: quota_service(false),
            status: 431,
            told: true,
        }),
        counted: vec![vec![DescriptorEntry::Fixed {
            key: None,
            value: "all".into(),
        }]],
        paths: vec![
            PathLimit {
                path: ".*".into(),
                rate: Some(rate(1)),
                counted: descriptors(),
            },
            PathLimit {
                path: "/not-granted".into(),
                rate: Some(rate(2)),
                counted: Vec::new(),
            },
        ],
    };
    let retry = RetryRule {
        provenance: Provenance::new("Retry", "shop", "again"),
        source: account("client"),
        services: vec![("shop".into(), "web".into())],
        policy: RetryPolicy {
            conditions: "5xx,connect-failure".into(),
            retries: 4,
            per_try_timeout: Some(Duration::from_secs(1)),
            back_off: Some(Duration::from_millis(50)),
        },
    };
    let authorizer = Authorizer {
        host: "opa.opa.svc.cluster.local".into(),
        port: 9191,
        timeout: Duration::from_secs(1),
        fail_open: false,
        stat_prefix: "inboundExtAuthz".into(),
    };
    let tracing = Tracing {
        host: "jaeger.osm-system.svc.cluster.local".into(),
        port: 9411,
        path: "/api/v2/spans".into(),
        sampled: 1250,
    };
    MeshParts {
        settings: MeshSettings {
            permissive: true,
            tracing: Some(Arc::new(tracing)),
            authorizer: Some(Arc::new(authorizer)),
            ..settings()
        },
        upstream_settings: vec![setting("web"), setting("tcp")],
        retries: vec![retry],
        ..shop()
    }
}

fn breaker() -> CircuitBreaker {
    CircuitBreaker {
        window: Duration::from_secs(60),
        min_requests: 200,
        open_for: Duration::from_secs(10),
        slow_after: Duration::from_millis(200),
        errors: Bound {
            amount: Some(100),
            share: None,
        },
        slow: Bound {
            amount: None,
            share: Some(100_000),
        },
        status: 503,
        body: "Service Unavailable!".into(),
    }
}

fn quota_service(fail_open: bool) -> QuotaService {
    QuotaService {
        host: "rls.rls-test.svc.cluster.local".into(),
        port: 8081,
        domain: "test".into(),
        timeout: Duration::from_millis(20),
        fail_open,
    }
}

/// Every kind of entry.
fn descriptors() -> Vec<Descriptor> {
    let text = |text: &str| -> Arc<str> { text.into() };
    let conditions = [
        HeaderIs::Exact(text("a")),
        HeaderIs::Prefix(text("b")),
        HeaderIs::Suffix(text("c")),
        HeaderIs::Contains(text("d")),
        HeaderIs::Regex(text("e.*")),
        HeaderIs::Present(false),
    ];
    vec![
        vec![
            DescriptorEntry::Fixed {
                key: Some(text("my_key")),
                value: text("my_value"),
            },
            DescriptorEntry::RemoteAddress,
        ],
        vec![
            DescriptorEntry::Header {
                key: text("my_header"),
                name: text("my-header"),
            },
            DescriptorEntry::HeaderMatch {
                key: Some(text("match")),
                value: text("foo"),
                expected: false,
                headers: conditions.map(|is| (text("x-is"), is)).into(),
            },
        ],
    ]
}

fn egress() -> MeshParts {
    let rule = |name: &str,
                hosts: &[&str],
                addresses: Option<&[&str]>,
                ports: &[(u16, EgressProtocol)]| {
        EgressRule {
            provenance: Provenance::new("Egress", "shop", name),
            sources: [account("client")].into(),
            hosts: hosts.iter().map(|host| (*host).into()).collect(),
            addresses: addresses.map(|all| all.iter().map(|net| net.parse().unwrap()).collect()),
            ports: ports
                .iter()
                .map(|&(number, protocol)| EgressPort { number, protocol })
                .collect(),
            http: None,
            limits: ConnectionLimits::default(),
        }
    };
    use EgressProtocol::*;
    let mut routes = rule("routes", &["httpbin.test"], None, &[(80, Http)]);
    routes.http = Some(vec![HttpGrant {
        matches: http_match(Some("/status.*"), &["GET"], &[]),
        provenance: routes.provenance.rule("HTTPRouteGroup/get/status"),
    }]);
    MeshParts {
        settings: settings(),
        egress: vec![
            routes,
            rule(
                "http-net",
                &["net.test"],
                Some(&["198.51.100.0/24"]),
                &[(80, Http), (8080, Http)],
            ),
            rule(
                "https",
                &["httpbin.test", "*.wild.test"],
                None,
                &[(443, Https)],
            ),
            rule(
                "tcp",
                &[],
                Some(&["203.0.113.0/24", "2001:db8::/32"]),
                &[(443, Tcp)],
            ),
            rule(
                "mysql",
                &[],
                None,
                &[(3306, TcpServerFirst), (3307, TcpServerFirst)],
            ),
        ],
        ..shop()
    }
}

fn split() -> Split {
    let backend = |service: &str, weight| Backend {
        service: service.into(),
        weight,
    };
    Split {
        provenance: Provenance::new("TrafficSplit", "shop", "canary"),
        namespace: "shop".into(),
        apex: "apex".into(),
        matches: None,
        backends: vec![backend("web", 90), backend("canary", 10)],
    }
}

fn shop() -> MeshParts {
    use Protocol::*;
    let (web, canary) = (("web-0", "10.244.0.10"), ("web-1", "10.244.0.11"));
    MeshParts {
        services: vec![
            service(
                "web",
                "10.96.0.10",
                false,
                &[(80, Http, 8080), (81, Grpc, 8081)],
                &[web],
            ),
            service(
                "canary",
                "10.96.0.11",
                false,
                &[(80, Http, 8080)],
                &[canary],
            ),
            service(
                "apex",
                "10.96.0.12",
                false,
                &[(80, Http, 8080)],
                &[web, canary],
            ),
            service("tcp", "fd96::10", false, &[(7000, Tcp, 7000)], &[web]),
            service(
                "mysql",
                "10.96.0.13",
                false,
                &[(3306, TcpServerFirst, 3306)],
                &[web],
            ),
            service(
                "zk",
                "",
                true,
                &[(2181, Tcp, 2181), (8080, Http, 8088)],
                &[web, canary],
            ),
            service("empty", "10.96.0.14", false, &[(80, Http, 8080)], &[]),
        ],
        workloads: vec![
            workload("client", "client", "10.244.0.1"),
            workload("nobody", "nobody", "10.244.0.2"),
            workload("web-0", "web", "10.244.0.10"),
            workload("web-1", "web", "10.244.0.11"),
        ],
        ..MeshParts::default()
    }
}

fn account(name: &str) -> ServiceAccount {
    ServiceAccount::new("shop", name)
}

fn http_match(path: Option<&str>, methods: &[&str], headers: &[(&str, &str)]) -> HttpMatch {
    HttpMatch {
        path: path.map(Into::into),
        methods: methods
            .iter()
            .map(|method| Arc::from(*method))
            .collect::<BTreeSet<_>>(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
    }
}

fn workload(name: &str, account_name: &str, ip: &str) -> Workload {
    Workload {
        proxy_uuid: name.into(),
        namespace: "shop".into(),
        name: name.into(),
        uid: name.into(),
        account: account(account_name),
        ips: vec![ip.parse().unwrap()],
        scraped: name == "web-0",
        told_to_log: false,
    }
}

fn service(
    name: &str,
    ip: &str,
    headless: bool,
    ports: &[(u16, Protocol, u16)],
    pods: &[(&str, &str)],
) -> Service {
    let port = |&(port, protocol, target_port): &(u16, Protocol, u16)| ServicePort {
        port,
        protocol,
        target_port,
        endpoints: pods
            .iter()
            .map(|(pod, ip)| Endpoint {
                address: SocketAddr::new(ip.parse().unwrap(), target_port),
                account: account("web"),
                pod: (*pod).into(),
                hostname: headless.then(|| (*pod).into()),
                ready: true,
            })
            .collect(),
    };
    Service {
        namespace: "shop".into(),
        name: name.into(),
        cluster_ips: ip.parse().into_iter().collect(),
        headless,
        ports: ports.iter().map(port).collect(),
    }
}
