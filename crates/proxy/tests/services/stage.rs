//! The servers that filters ask, and proxies that ask them.

use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{
    Authorization, AuthorizationServer,
};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::envoy::r#type::v3 as kinds;
use envoy_types::pb::google::protobuf::{BoolValue, Duration};
use envoy_types::pb::google::rpc;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use xds::client::{Any, Kind};

use crate::support::peers::{application, echo};
use crate::support::{
    Http, Proxy, any, filtered_chain, http_filter, listener, network_filter, routes,
    static_cluster, tcp_chain,
};

/// Both services: they keep what they were asked, and answer by words in it.
#[derive(Default)]
pub struct Services {
    pub limits: Mutex<Vec<(RateLimitRequest, Option<String>)>>,
    pub checks: Mutex<Vec<CheckRequest>>,
}

pub fn value(key: &str, value: &str) -> core::HeaderValue {
    core::HeaderValue {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

pub fn option(key: &str, text: &str, append: Option<bool>) -> core::HeaderValueOption {
    #[allow(deprecated)]
    core::HeaderValueOption {
        header: Some(value(key, text)),
        append: append.map(|value| BoolValue { value }),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl RateLimitService for Services {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let metadata = request.metadata().get("x-asked-by");
        let metadata = metadata.map(|value| value.to_str().unwrap().to_owned());
        let question = request.into_inner();
        self.limits.lock().push((question.clone(), metadata));
        let says = |word: &str| format!("{question:?}").contains(word);
        if says("broken") {
            return Err(Status::unavailable("no"));
        }
        if says("slow") {
            std::future::pending::<()>().await;
        }
        let code = if says("over") {
            Code::OverLimit
        } else {
            Code::Ok
        };
        Ok(Response::new(RateLimitResponse {
            overall_code: code.into(),
            statuses: vec![DescriptorStatus {
                code: code.into(),
                current_limit: Some(RateLimit {
                    name: "nm".into(),
                    requests_per_unit: 10,
                    unit: 2,
                }),
                limit_remaining: 3,
                duration_until_reset: Some(Duration {
                    seconds: 42,
                    nanos: 0,
                }),
                ..Default::default()
            }],
            response_headers_to_add: vec![value("x-rls", "answer")],
            request_headers_to_add: vec![value("x-rls-request", "w")],
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl Authorization for Services {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let question = request.into_inner();
        self.checks.lock().push(question.clone());
        let attributes = question.attributes.unwrap_or_default();
        let http = attributes.request.and_then(|request| request.http);
        let path = http.map(|http| http.path).unwrap_or_default();
        let status = |code| {
            Some(rpc::Status {
                code,
                ..Default::default()
            })
        };
        let answer = match path.as_str() {
            "/slow" => std::future::pending().await,
            "/broken" => return Err(Status::unavailable("no")),
            "/deny" => CheckResponse {
                status: status(7),
                http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                    status: Some(kinds::HttpStatus { code: 401 }),
                    headers: vec![option("x-deny", "1", None), option("x-deny", "2", None)],
                    body: "go away".into(),
                })),
                ..Default::default()
            },
            "/refuse" => CheckResponse {
                status: status(7),
                ..Default::default()
            },
            path if path.starts_with("/change") => CheckResponse {
                status: status(0),
                http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                    headers: vec![
                        option("x-set", "new", None),
                        option("x-add", "more", Some(true)),
                        option("x-absent", "more", Some(true)),
                        option(":path", "/changed?keep=1", None),
                    ],
                    headers_to_remove: vec!["x-gone".into(), "host".into()],
                    response_headers_to_add: vec![option("x-for-client", "yes", None)],
                    query_parameters_to_remove: vec!["q".into()],
                    ..Default::default()
                })),
                ..Default::default()
            },
            _ => CheckResponse {
                status: status(0),
                ..Default::default()
            },
        };
        Ok(Response::new(answer))
    }
}

pub async fn serve() -> (Arc<Services>, SocketAddr) {
    let services = Arc::new(Services::default());
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(RateLimitServiceServer::from_arc(services.clone()))
        .add_service(AuthorizationServer::from_arc(services.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(socket)));
    (services, address)
}

pub fn grpc(cluster: &str, milliseconds: i32) -> core::GrpcService {
    core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
            core::grpc_service::EnvoyGrpc {
                cluster_name: cluster.into(),
                ..Default::default()
            },
        )),
        timeout: Some(timeout(milliseconds)),
        initial_metadata: vec![value("x-asked-by", "%REQ(x-who)%")],
        ..Default::default()
    }
}

pub fn timeout(milliseconds: i32) -> Duration {
    Duration {
        seconds: i64::from(milliseconds / 1000),
        nanos: milliseconds % 1000 * 1_000_000,
    }
}

/// A proxy whose clusters are the application, the services and one where nobody listens.
pub async fn proxy(services: SocketAddr) -> Proxy {
    let mut proxy = Proxy::new(None);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = nobody.local_addr().unwrap();
    drop(nobody);
    let clusters = [
        static_cluster("app", &[application().await], Http::One),
        static_cluster("echo", &[echo().await], Http::One),
        static_cluster("services", &[services], Http::Two),
        static_cluster("gone", &[gone], Http::Two),
    ];
    for cluster in &clusters {
        proxy.push(Kind::Cluster, vec![(&cluster.name, any(cluster))], &[]);
    }
    proxy
}

pub fn http_front(
    proxy: &mut Proxy,
    filter: Any,
    paths: &[&str],
    change: impl FnOnce(&mut route::VirtualHost),
) -> SocketAddr {
    let chain = filtered_chain("r", vec![http_filter("filter", filter)]);
    let front = listener("front", vec![chain], false);
    proxy.push(Kind::Listener, vec![("front", any(&front))], &[]);
    let mut table = routes("r", paths.iter().map(|path| (*path, "app")).collect());
    change(&mut table.virtual_hosts[0]);
    proxy.push(Kind::Routes, vec![("r", any(&table))], &[]);
    proxy.address("front")
}

pub fn tcp_front(proxy: &mut Proxy, name: &str, filter: Any) -> SocketAddr {
    let mut chain = tcp_chain("echo");
    chain.filters.insert(0, network_filter("filter", filter));
    let front = listener(name, vec![chain], false);
    proxy.push(Kind::Listener, vec![(name, any(&front))], &[]);
    proxy.address(name)
}

pub fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

pub fn header<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let lines = answer.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(of, _)| *of == name)
        .map(|(_, value)| value)
        .collect()
}

pub async fn says(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let _ = stream.write_all(b"hi").await;
    let _ = stream.shutdown().await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}
