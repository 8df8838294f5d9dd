//! The discovery port as a proxy sees it: real TLS, real gRPC; only the TokenReview is a stand-in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ca::{Authority, Identity, PrivateKey, ServerVerifier, TrustStore};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use families::{Index, Kind as ObjectKind, Object};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use xds::certificate::{CertificateClient, CertificateRequest};
use xds::server::Kind;

use crate::controller::Discovery;
use crate::issue::{Account, Review};
use crate::metrics::Metrics;
use crate::nacks::Nacks;
use crate::world::{Settings, World, Worlds};

const HOST: &str = "osm-controller.osm-system.svc";
const UUID: &str = "8d6ddd8f-6c2b-4a2c-a3b0-6f0b5c5f2c0e";

/// Longer than anything takes here; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// Long enough to see that nothing comes.
const SILENCE: Duration = Duration::from_millis(300);

/// Tokens are `<namespace>/<account>/<pod uid>`.
struct PlainTokens;

impl Review for PlainTokens {
    async fn review(&self, token: &str) -> Result<Account, Status> {
        match token.split('/').collect::<Vec<_>>()[..] {
            [namespace, name, uid] => Ok(Account {
                namespace: namespace.into(),
                name: name.into(),
                pod_uid: Some(uid.into()),
            }),
            _ => Err(Status::unauthenticated("ServiceAccount token: not valid")),
        }
    }
}

struct Plane {
    index: Index,
    publish: watch::Sender<Option<Arc<World>>>,
    authority: Arc<Authority>,
    address: SocketAddr,
    nacks: Arc<Nacks>,
    stop: CancellationToken,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Plane {
    async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = Arc::new(Authority::generate(SystemTime::now()).unwrap());
        let (publish, worlds) = watch::channel(None);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let nacks = Arc::new(Nacks::default());
        let discovery = Discovery {
            authority: authority.clone(),
            trust_domain: "cluster.local".into(),
            leaf: authority
                .issue_server(&[HOST], DEADLINE * 100, SystemTime::now())
                .unwrap(),
            worlds: Worlds::new(worlds).with_patience(SILENCE),
            review: PlainTokens,
            metrics: Arc::new(Metrics::default()),
            nacks: nacks.clone(),
            mesh_config: ("osm-system".into(), "osm-mesh-config".into()),
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        };
        tokio::spawn(discovery.serve(listener));
        let settings = families::Settings {
            mesh_name: "osm".into(),
            osm_namespace: "osm-system".into(),
            trust_domain: "cluster.local".into(),
        };
        let mut plane = Self {
            index: Index::new(settings),
            publish,
            authority,
            address,
            nacks,
            stop,
        };
        plane.apply::<api::config::v1alpha2::MeshConfig>(json!({
            "metadata": { "name": "osm-mesh-config", "namespace": "osm-system" },
            "spec": {
                "sidecar": {}, "observability": {}, "featureFlags": {},
                "traffic": { "enableEgress": false, "enablePermissiveTrafficPolicyMode": true },
            },
        }));
        plane.namespace(true);
        plane
    }

    fn apply<K: DeserializeOwned + Into<Object>>(&mut self, object: Value) -> &mut Self {
        self.index
            .apply(serde_json::from_value::<K>(object).unwrap().into());
        self
    }

    fn namespace(&mut self, monitored: bool) -> &mut Self {
        let labels = if monitored {
            json!({ "openservicemesh.io/monitored-by": "osm" })
        } else {
            json!({})
        };
        self.apply::<k8s_openapi::api::core::v1::Namespace>(
            json!({ "metadata": { "name": "demo", "labels": labels } }),
        )
    }

    fn pod(&mut self, account: &str) -> &mut Self {
        self.apply::<k8s_openapi::api::core::v1::Pod>(json!({
            "metadata": { "name": "curl-1", "namespace": "demo", "uid": "pod-uid", "labels": { "osm-proxy-uuid": UUID } },
            "spec": { "serviceAccountName": account, "containers": [] },
            "status": { "podIP": "10.0.0.1", "phase": "Running" },
        }))
    }

    fn service(&mut self, name: &str, cluster_ip: &str) -> &mut Self {
        self.apply::<k8s_openapi::api::core::v1::Service>(json!({
            "metadata": { "name": name, "namespace": "demo" },
            "spec": { "clusterIP": cluster_ip, "ports": [{ "name": "http-x", "port": 80, "targetPort": 8080 }] },
        }));
        self.apply::<k8s_openapi::api::core::v1::Endpoints>(json!({
            "metadata": { "name": name, "namespace": "demo" },
            "subsets": [{
                "addresses": [{ "ip": "10.0.0.1", "targetRef": { "kind": "Pod", "name": "curl-1", "namespace": "demo" } }],
                "ports": [{ "name": "http-x", "port": 8080 }],
            }],
        }))
    }

    fn publish(&self) {
        let world = World {
            mesh: self.index.mesh(),
            settings: Settings::new(None),
        };
        self.publish.send_replace(Some(Arc::new(world)));
    }

    async fn channel(
        &self,
        certificate: Option<(
            Vec<rustls_pki_types::CertificateDer<'static>>,
            PrivateKeyDer<'static>,
        )>,
    ) -> Channel {
        let trust = TrustStore::from_pem(self.authority.certificate_pem()).unwrap();
        let builder = rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(ServerVerifier::dns(trust, HOST).unwrap());
        let mut config = match certificate {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let address = self.address;
        Endpoint::from_static("http://osm-controller")
            .connect_with_connector(tower::service_fn(move |_| {
                let connector = connector.clone();
                async move {
                    let tcp = TcpStream::connect(address).await?;
                    let stream = connector
                        .connect(ServerName::try_from(HOST).unwrap(), tcp)
                        .await?;
                    Ok::<_, std::io::Error>(TokioIo::new(stream))
                }
            }))
            .await
            .unwrap()
    }

    async fn channel_of(&self, account: &str) -> Channel {
        let identity = Identity::new("cluster.local", account, "demo").unwrap();
        let leaf = self
            .authority
            .issue_workload(&identity, DEADLINE * 100, SystemTime::now())
            .unwrap();
        self.channel(Some((leaf.chain.clone(), leaf.key.to_rustls())))
            .await
    }
}

fn node(account: &str) -> Option<Node> {
    Some(Node {
        id: format!("{UUID}.sidecar.{account}.demo.cluster.local"),
        ..Node::default()
    })
}

/// An incremental stream.
struct Delta {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    async fn open(channel: Channel, node: Option<Node>) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let first = DeltaDiscoveryRequest {
            node,
            type_url: Kind::Cluster.type_url().into(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        Ok(Self {
            requests,
            responses,
        })
    }

    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        self.answer(None).await
    }

    /// Answers the next response with a refusal in these words.
    async fn refuse(&mut self, words: &str) {
        self.answer(Some(words)).await.unwrap();
    }

    async fn answer(&mut self, refusal: Option<&str>) -> Result<DeltaDiscoveryResponse, Status> {
        let response = tokio::time::timeout(DEADLINE, self.responses.message())
            .await
            .expect("no response");
        let response = response?.ok_or_else(|| Status::aborted("stream ended"))?;
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: refusal.map(|words| RpcStatus {
                message: words.to_owned(),
                ..RpcStatus::default()
            }),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(answer).await.unwrap();
        Ok(response)
    }

    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(SILENCE, self.responses.message())
            .await
            .is_err()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

#[tokio::test]
async fn a_token_buys_a_leaf_for_its_account_and_the_leaf_opens_a_stream() {
    let mut plane = Plane::start().await;
    plane.pod("curl").publish();
    let key = PrivateKey::generate().unwrap();
    let wish = Identity::new("cluster.local", "admin", "kube-system").unwrap();
    let request = CertificateRequest {
        csr: key.signing_request(&wish).unwrap(),
        validity_duration: 3600,
    };
    let mut client = CertificateClient::new(plane.channel(None).await);
    let response = client
        .create_certificate(request, "demo/curl/pod-uid")
        .await
        .unwrap();
    assert_eq!(response.cert_chain.len(), 2);
    let chain = ca::parse_certificates(&response.cert_chain[0]).unwrap();
    let got = Identity::from_certificate(&chain[0]).unwrap();
    assert_eq!(
        got.uri(),
        "spiffe://cluster.local/curl/demo",
        "the request's own names do not count"
    );

    let channel = plane.channel(Some((chain, key.to_rustls()))).await;
    let mut stream = Delta::open(channel, node("curl")).await.unwrap();
    assert_eq!(
        stream.next().await.unwrap().type_url,
        Kind::Cluster.type_url()
    );
}

#[tokio::test]
async fn certificates_are_refused_without_a_token_or_a_pod_of_the_mesh() {
    let mut plane = Plane::start().await;
    plane.pod("curl").publish();
    let key = PrivateKey::generate().unwrap();
    let identity = Identity::new("cluster.local", "curl", "demo").unwrap();
    let csr = key.signing_request(&identity).unwrap();
    let mut client = CertificateClient::new(plane.channel(None).await);
    for (token, csr, code) in [
        ("nonsense", csr.as_str(), Code::Unauthenticated),
        ("", csr.as_str(), Code::Unauthenticated),
        ("demo/other/pod-uid", csr.as_str(), Code::PermissionDenied),
        ("demo/curl/other-pod", csr.as_str(), Code::PermissionDenied),
        (
            "elsewhere/curl/pod-uid",
            csr.as_str(),
            Code::PermissionDenied,
        ),
        ("demo/curl/pod-uid", "nonsense", Code::InvalidArgument),
    ] {
        let request = CertificateRequest {
            csr: csr.into(),
            validity_duration: 0,
        };
        let status = client.create_certificate(request, token).await.unwrap_err();
        assert_eq!(status.code(), code, "{token:?}: {status}");
    }
}

#[tokio::test]
async fn streams_are_for_the_pod_whose_account_the_certificate_names() {
    let mut plane = Plane::start().await;
    plane.pod("curl").publish();
    for (certificate, node, code) in [
        (None, node("curl"), Code::Unauthenticated),
        (Some("other"), node("curl"), Code::PermissionDenied),
        (Some("other"), node("other"), Code::PermissionDenied),
        (Some("curl"), node("other"), Code::PermissionDenied),
        (Some("curl"), None, Code::PermissionDenied),
    ] {
        let channel = match certificate {
            Some(account) => plane.channel_of(account).await,
            None => plane.channel(None).await,
        };
        let refused = match Delta::open(channel, node.clone()).await {
            Ok(mut stream) => stream.next().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(refused.code(), code, "{certificate:?} {node:?}: {refused}");
    }
}

#[tokio::test]
async fn a_stream_waits_for_its_pod_to_be_known() {
    let mut plane = Plane::start().await;
    plane.publish();
    let channel = plane.channel_of("curl").await;
    let opening =
        tokio::spawn(async move { Delta::open(channel, node("curl")).await?.next().await });
    plane.pod("curl").publish();
    assert!(opening.await.unwrap().is_ok());
}

#[tokio::test]
async fn changes_arrive_as_differences_and_a_namespace_that_left_gets_none() {
    let mut plane = Plane::start().await;
    plane.pod("curl").service("one", "10.96.0.11").publish();
    let mut stream = Delta::open(plane.channel_of("curl").await, node("curl"))
        .await
        .unwrap();
    let first = stream.next().await.unwrap();
    assert!(
        names(&first).contains(&"demo/one|8080"),
        "{:?}",
        names(&first)
    );
    assert!(stream.is_silent().await);

    plane.service("two", "10.96.0.12").publish();
    let second = stream.next().await.unwrap();
    let got = names(&second);
    assert!(
        got.contains(&"demo/two|8080") && !got.contains(&"demo/one|8080"),
        "{got:?}"
    );

    plane
        .namespace(false)
        .service("three", "10.96.0.13")
        .publish();
    assert!(
        stream.is_silent().await,
        "a proxy of a namespace that left keeps what it has"
    );

    plane.namespace(true);
    plane.index.remove(ObjectKind::Service, "demo", "two");
    plane.publish();
    let mut removed = Vec::new();
    while !removed.iter().any(|name| name == "demo/two|8080") {
        removed.extend(stream.next().await.unwrap().removed_resources);
    }
}

#[tokio::test]
async fn a_refusal_stands_until_the_proxy_accepts_or_leaves() {
    let mut plane = Plane::start().await;
    plane.pod("curl").service("one", "10.96.0.1").publish();
    let channel = plane.channel_of("curl").await;
    let mut changes = plane.nacks.changes();
    let mut stream = Delta::open(channel.clone(), node("curl")).await.unwrap();
    stream
        .refuse("demo/one|8080: TrafficSplit demo/canary is odd")
        .await;
    let changed = tokio::time::timeout(DEADLINE, changes.changed()).await;
    changed.unwrap().unwrap();
    let told: Vec<String> = plane
        .nacks
        .by_subject()
        .iter()
        .map(|((kind, (namespace, name)), refused)| format!("{kind} {namespace}/{name} {refused}"))
        .collect();
    let words = "refused by 1 proxy: cds: demo/one|8080: TrafficSplit demo/canary is odd";
    assert_eq!(
        told,
        [
            format!("Pod demo/curl-1 {words}"),
            format!("TrafficSplit demo/canary {words}")
        ]
    );

    plane.service("two", "10.96.0.2").publish();
    stream.next().await.unwrap();
    let changed = tokio::time::timeout(DEADLINE, changes.changed()).await;
    changed.unwrap().unwrap();
    assert!(plane.nacks.by_subject().is_empty(), "accepted");

    plane.service("three", "10.96.0.3").publish();
    stream.refuse("no").await;
    for expected in [1, 0] {
        let changed = tokio::time::timeout(DEADLINE, changes.changed()).await;
        changed.unwrap().unwrap();
        assert_eq!(plane.nacks.by_subject().len(), expected);
        if expected == 1 {
            drop(std::mem::replace(
                &mut stream,
                Delta::open(channel.clone(), node("curl")).await.unwrap(),
            ));
        }
    }
}

#[tokio::test]
async fn a_state_of_the_world_proxy_gets_all_its_clusters() {
    let mut plane = Plane::start().await;
    plane.pod("curl").service("one", "10.96.0.11").publish();
    let (requests, outgoing) = mpsc::channel(4);
    let first = DiscoveryRequest {
        node: node("curl"),
        type_url: Kind::Cluster.type_url().into(),
        ..DiscoveryRequest::default()
    };
    requests.send(first).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(plane.channel_of("curl").await);
    let mut responses = client
        .stream_aggregated_resources(ReceiverStream::new(outgoing))
        .await
        .unwrap()
        .into_inner();
    let response = tokio::time::timeout(DEADLINE, responses.message())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(!response.resources.is_empty() && !response.version_info.is_empty());
}

#[tokio::test]
async fn streams_end_with_the_controller() {
    let mut plane = Plane::start().await;
    plane.pod("curl").publish();
    let mut stream = Delta::open(plane.channel_of("curl").await, node("curl"))
        .await
        .unwrap();
    stream.next().await.unwrap();
    plane.stop.cancel();
    assert_eq!(stream.next().await.unwrap_err().code(), Code::Unavailable);
}
