//! The whole of a sidecar against a control plane: token, certificate, ADS over mutual TLS, both dialects.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use proxy::ads::Ads;
use proxy::cluster::Upkeep;
use proxy::config::ConfigParser;
use proxy::control_plane::ControlPlane;
use proxy::identity;
use proxy::listeners::Listeners;
use proxy::settings::Settings;
use proxy::snapshot::Builder;
use support::peers::{application, get};
use support::{
    Authority, Http, OWN, Proxy, any, eventually, http_chain, listener, routes, static_cluster,
};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use xds::certificate::{
    CertificateRequest, CertificateResponse, CertificateServer, CertificateService, bearer_token,
};
use xds::client::{Any, Kind, Limits, Machine, Mode};

const NAME: &str = "osm-controller.osm-system.svc";

struct Issuer(Arc<Authority>);

#[tonic::async_trait]
impl CertificateService for Issuer {
    async fn create_certificate(
        &self,
        request: Request<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        if bearer_token(request.metadata()) != Some("the-token") {
            return Err(Status::unauthenticated("wrong token"));
        }
        let identity = ca::Identity::new("cluster.local", "sa", "ns").unwrap();
        let chain = self.0.0.sign_request(
            &request.get_ref().csr,
            &identity,
            Duration::from_secs(3600),
            SystemTime::now(),
        );
        Ok(Response::new(CertificateResponse {
            cert_chain: chain.map_err(|e| Status::internal(e.to_string()))?,
        }))
    }
}

/// Sends what it holds of the kind that is asked for, and writes down what comes back.
#[derive(Clone)]
struct Server {
    resources: Arc<Vec<(Kind, &'static str, Any)>>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn of(&self, type_url: &str) -> Vec<Resource> {
        let matching = self
            .resources
            .iter()
            .filter(|(kind, ..)| kind.type_url() == type_url);
        matching
            .map(|(_, name, any)| Resource {
                name: (*name).into(),
                version: "1".into(),
                resource: Some(any.clone()),
                ..Default::default()
            })
            .collect()
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (mut incoming, server) = (request.into_inner(), self.clone());
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(request)) = incoming.next().await {
                let kind = Kind::of(&request.type_url).unwrap().short();
                let error = request.error_detail.map(|error| error.message);
                server
                    .told
                    .lock()
                    .push(format!("{kind} {} {error:?}", request.response_nonce));
                if request.response_nonce.is_empty() {
                    let resources = server
                        .of(&request.type_url)
                        .into_iter()
                        .filter_map(|r| r.resource)
                        .collect();
                    let response = DiscoveryResponse {
                        version_info: "1".into(),
                        nonce: "1".into(),
                        type_url: request.type_url,
                        resources,
                        ..Default::default()
                    };
                    let _ = sender.send(Ok(response)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (mut incoming, server) = (request.into_inner(), self.clone());
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(request)) = incoming.next().await {
                let kind = Kind::of(&request.type_url).unwrap().short();
                let error = request.error_detail.map(|error| error.message);
                server
                    .told
                    .lock()
                    .push(format!("{kind} {} {error:?}", request.response_nonce));
                if request.response_nonce.is_empty() {
                    let response = DeltaDiscoveryResponse {
                        nonce: "1".into(),
                        resources: server.of(&request.type_url),
                        type_url: request.type_url,
                        ..Default::default()
                    };
                    let _ = sender.send(Ok(response)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// A control plane on loopback, on a runtime of its own: shutting that down ends its connections too.
fn control_plane(authority: Arc<Authority>, server: Server) -> (SocketAddr, Runtime) {
    let leaf = authority
        .0
        .issue_server(&[NAME], Duration::from_secs(3600), SystemTime::now())
        .unwrap();
    let trust = ca::TrustStore::from_pem(authority.0.certificate_pem()).unwrap();
    let mut tls = rustls::ServerConfig::builder()
        .with_client_cert_verifier(ca::ClientVerifier::optional(trust))
        .with_single_cert(leaf.chain, leaf.key.to_rustls())
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let incoming =
            futures::stream::unfold((listener, acceptor), |(listener, acceptor)| async move {
                let (tcp, _) = listener.accept().await.unwrap();
                let tls = acceptor.accept(tcp).await;
                Some((tls, (listener, acceptor)))
            });
        let serving = tonic::transport::Server::builder()
            .add_service(CertificateServer::new(Issuer(authority)))
            .add_service(AggregatedDiscoveryServiceServer::new(server))
            .serve_with_incoming(incoming);
        serving.await.unwrap();
    });
    (address, runtime)
}

fn settings(address: SocketAddr, authority: &Authority, token: &std::path::Path) -> Settings {
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        settings: Settings,
    }
    let flags = [
        "osm-proxy".to_owned(),
        format!("--xds-address={address}"),
        format!("--xds-server-name={NAME}"),
        format!("--root-ca={}", authority.0.certificate_pem()),
        format!("--token-path={}", token.display()),
        "--uuid=u".to_owned(),
        "--service-account=sa".to_owned(),
        "--namespace=ns".to_owned(),
    ];
    <Flags as clap::Parser>::parse_from(flags).settings
}

async fn follows(mode: Mode) {
    let authority = Arc::new(Authority::new());
    let app = application().await;
    let mut broken = listener("broken", vec![http_chain("r", None)], false);
    broken.enable_mptcp = true; // Not supported: this one is refused, the others serve.
    let server = Server {
        resources: Arc::new(vec![
            (
                Kind::Cluster,
                "c",
                any(&static_cluster("c", &[app], Http::One)),
            ),
            (
                Kind::Listener,
                "l",
                any(&listener("l", vec![http_chain("r", None)], false)),
            ),
            (Kind::Listener, "broken", any(&broken)),
            (Kind::Routes, "r", any(&routes("r", vec![("/get", "c")]))),
        ]),
        told: Arc::default(),
    };
    let told = server.told.clone();
    let (address, runtime) = control_plane(authority.clone(), server);
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "the-token\n").unwrap();
    let settings = settings(address, &authority, token.path());

    let shared = Proxy::new(None).shared;
    let plane = Arc::new(ControlPlane::new(&settings, shared.own.clone()).unwrap());
    let listeners = Arc::new(Mutex::new(Listeners::new(
        shared.clone(),
        vec![Handle::current()],
    )));
    let machine = Arc::new(Mutex::new(Machine::new(mode, Limits::default())));
    let ads = Ads {
        machine: machine.clone(),
        parser: ConfigParser {
            own_certificate: OWN.into(),
        },
        builder: Builder {
            own: shared.own.clone(),
            workers: 1,
        },
        shared: shared.clone(),
        listeners: listeners.clone(),
        upkeep: Upkeep::new(),
        node: Default::default(),
        needs_identity: true,
        heard: false,
    };
    let (keeper, of) = (plane.clone(), shared.clone());
    tokio::spawn(async move {
        let take = |issued: &identity::Issued| {
            of.own.replace(Arc::new(issued.certified()?));
            Ok(())
        };
        identity::keep(&settings, &keeper, &of.stats, take).await;
    });
    tokio::spawn(ads.run(Some(plane)));
    eventually("the listener is open", async || {
        listeners.lock().bound().contains_key("l")
    })
    .await;
    let front = listeners.lock().bound()["l"][0];
    assert!(get(front, "/get", "").await.starts_with("HTTP/1.1 200"));
    let refusal =
        "lds 1 Some(\"broken: enable_mptcp: this field changes the meaning and is not supported\")";
    eventually("the refusal is told", async || {
        told.lock().iter().any(|line| line == refusal)
    })
    .await;
    assert!(
        told.lock().iter().any(|line| line == "cds 1 None"),
        "{told:?}"
    );

    runtime.shutdown_background();
    eventually("the stream has ended", async || {
        shared.stats.server.connected.get() == 0
    })
    .await;
    assert!(
        get(front, "/get", "").await.starts_with("HTTP/1.1 200"),
        "the last good configuration serves"
    );
}

#[tokio::test]
async fn a_sidecar_follows_a_delta_server_and_serves_without_it() {
    follows(Mode::Delta).await;
}

#[tokio::test]
async fn a_sidecar_follows_a_state_of_the_world_server_and_serves_without_it() {
    follows(Mode::StateOfTheWorld).await;
}
