//! gRPC of two implementations, through HTTP/2 to the application.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use testkit::ports;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};

use super::program::{folder, run, serve};
use crate::Outcome;
use crate::stage::{LOCAL, Protocol, Service, Stage};

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers with the domain it was asked for, in metadata; refuses what says so.
struct Echo;

#[tonic::async_trait]
impl RateLimitService for Echo {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let asked = request.into_inner();
        if asked.domain == "refuse" {
            return Err(Status::with_details(
                Code::FailedPrecondition,
                "as asked: ä",
                vec![1u8, 2, 3].into(),
            ));
        }
        if asked.domain == "slow" {
            tokio::time::sleep(PATIENCE).await;
        }
        let raw_body = asked.domain.clone().into_bytes();
        Ok(Response::new(RateLimitResponse {
            raw_body,
            ..Default::default()
        }))
    }
}

pub async fn tonic() -> anyhow::Result<Outcome> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(RateLimitServiceServer::new(Echo))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let nobody = SocketAddr::new(LOCAL, ports::free());
    let stage = Stage::start(vec![
        Service::new("grpc", Protocol::Http2, address),
        Service::new("nobody", Protocol::Http2, nobody),
    ])
    .await?;
    let url = format!("http://{}", stage.service("grpc")?.front());
    let channel = tonic::transport::Endpoint::from_shared(url)?
        .connect()
        .await?;
    let client = RateLimitServiceClient::new(channel)
        .max_decoding_message_size(16 << 20)
        .max_encoding_message_size(16 << 20);
    let ask = async |domain: String| {
        let mut client = client.clone();
        timeout(
            PATIENCE,
            client.should_rate_limit(RateLimitRequest {
                domain,
                ..Default::default()
            }),
        )
        .await
    };
    for domain in ["hello".to_owned(), "x".repeat(3 << 20)] {
        let answer = ask(domain.clone())
            .await
            .context("no answer")??
            .into_inner();
        ensure!(
            answer.raw_body == domain.as_bytes(),
            "a message of {} bytes",
            domain.len()
        );
    }
    let mut many = tokio::task::JoinSet::new();
    for number in 0..200 {
        let mut client = client.clone();
        many.spawn(async move {
            let domain = format!("call {number}");
            let answer = client
                .should_rate_limit(RateLimitRequest {
                    domain: domain.clone(),
                    ..Default::default()
                })
                .await?;
            Ok::<_, Status>(answer.into_inner().raw_body == domain.as_bytes())
        });
    }
    while let Some(done) = many.join_next().await {
        ensure!(done??, "an answer of another call");
    }
    let refused = ask("refuse".into()).await?.err().context("not refused")?;
    let status = (refused.code(), refused.message(), refused.details());
    ensure!(
        status == (Code::FailedPrecondition, "as asked: ä", &[1, 2, 3][..]),
        "{refused:?}"
    );
    let mut request = Request::new(RateLimitRequest {
        domain: "slow".into(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(300));
    let late = client
        .clone()
        .should_rate_limit(request)
        .await
        .err()
        .context("not late")?;
    ensure!(
        matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded),
        "{late:?}"
    );
    // An application that is not there: gRPC is told in gRPC.
    let url = format!("http://{}", stage.service("nobody")?.front());
    let channel = tonic::transport::Endpoint::from_shared(url)?
        .connect()
        .await?;
    let asked = RateLimitServiceClient::new(channel)
        .should_rate_limit(RateLimitRequest::default())
        .await;
    let gone = asked.err().context("nobody answered")?;
    ensure!(gone.code() == Code::Unavailable, "{gone:?}");
    Ok(Outcome::Good(
        "unary up to 3 MiB, 200 at once, status with details, deadline, a server that is gone"
            .into(),
    ))
}

pub async fn python() -> anyhow::Result<Outcome> {
    let Some(python) = python_with_packages().await? else {
        return Ok(Outcome::Skipped(
            "no Python with grpcio (scripts/python-peers says why)".into(),
        ));
    };
    let folder = folder()?;
    let script = folder.path().join("grpc_peer.py");
    std::fs::write(&script, include_str!("grpc_peer.py"))?;
    let script = script.display().to_string();
    let at = SocketAddr::new(LOCAL, ports::free());
    let port = at.port().to_string();
    let _server = serve(&python, &[&script, "server", &port], at).await?;
    let stage = Stage::start(vec![Service::new("grpc", Protocol::Http2, at)]).await?;
    let front = stage.service("grpc")?.front.to_string();
    let told = run(&python, &[&script, "client", &front]).await?;
    if !told.contains("all well") {
        bail!("{told}");
    }
    Ok(Outcome::Good(
        "unary, streams each way and both ways, metadata, trailers, status, deadline".into(),
    ))
}

/// A Python that has grpcio and websockets; none where they cannot be had.
pub async fn python_with_packages() -> anyhow::Result<Option<PathBuf>> {
    let script = testkit::process::workspace().join("scripts/python-peers");
    let printed = run(&script, &[]).await?;
    Ok(printed
        .lines()
        .last()
        .map(PathBuf::from)
        .filter(|path| path.is_file()))
}
