//! gRPC: a server with the services of upstream's tests (`hello.HelloService`, health), and a client for them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures::{Stream, StreamExt};
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::{Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::certificates;

/// `osm-apps grpc`.
#[derive(Args, Clone, Debug)]
pub struct ServerOptions {
    /// Port of the server
    #[arg(long, default_value_t = 9001)]
    pub port: u16,
    /// TLS, with a certificate of nobody
    #[arg(long)]
    pub tls: bool,
}

/// `osm-apps grpc-call`.
#[derive(Args, Clone, Debug)]
pub struct ClientOptions {
    /// `http://host:port`, or `https://` for TLS with whatever certificate
    pub url: http::Uri,
    /// `package.Service/Method`: of hello.HelloService SayHello and BidiHello, of grpc.health.v1.Health Check
    pub method: String,
    /// Messages; several for a stream, each is sent when the one before is answered
    #[arg(default_value = "world")]
    pub messages: Vec<String>,
}

/// Request and answer of all methods here: one text. (`greeting` and `reply` of upstream's hello.proto.)
#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

/// The answer of the health service: 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
const SAY_HELLO: &str = "/hello.HelloService/SayHello";
const BIDI_HELLO: &str = "/hello.HelloService/BidiHello";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Serves on a port.
pub async fn serve(options: ServerOptions) -> anyhow::Result<()> {
    let mut server = Server::builder();
    if options.tls {
        let (certificate, key) = certificates::self_signed("grpc.test")?;
        let identity = Identity::from_pem(certificate, key);
        server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
    }
    println!("grpc on port {}", options.port);
    let listener = crate::http::listen(options.port).await?;
    let incoming = futures::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    server
        .add_service(Hello)
        .add_service(HealthService)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

#[derive(Clone)]
struct Hello;

#[derive(Clone)]
struct HealthService;

impl NamedService for Hello {
    const NAME: &'static str = "hello.HelloService";
}

impl NamedService for HealthService {
    const NAME: &'static str = "grpc.health.v1.Health";
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl Service<http::Request<Body>> for Hello {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Text, Text>::default());
            Ok(match request.uri().path() {
                SAY_HELLO => {
                    let one = |asked: Request<Text>| async {
                        Ok::<_, Status>(Response::new(greet(asked.into_inner())))
                    };
                    grpc.unary(service_fn(one), request).await
                }
                BIDI_HELLO => {
                    let each = |asked: Request<Streaming<Text>>| async {
                        let answers = asked.into_inner().map(|text| text.map(greet));
                        Ok::<_, Status>(Response::new(answers.boxed()))
                    };
                    grpc.streaming(service_fn(each), request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

impl Service<http::Request<Body>> for HealthService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Health, Text>::default());
            let serving = |_: Request<Text>| async {
                Ok::<_, Status>(Response::new(Health { status: SERVING }))
            };
            Ok(match request.uri().path() {
                CHECK => grpc.unary(service_fn(serving), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

fn greet(asked: Text) -> Text {
    Text {
        text: format!("hello {}", asked.text),
    }
}

/// Calls a method and prints the answers.
pub async fn call(options: ClientOptions) -> anyhow::Result<()> {
    let endpoint = Endpoint::from(options.url.clone());
    let channel = if options.url.scheme_str() == Some("https") {
        let host = options.url.host().context("no host")?.to_owned();
        let port = options.url.port_u16().unwrap_or(443);
        let connect = service_fn(move |_| certificates::connect_to_anybody(host.clone(), port));
        // The connector does the TLS: to tonic it is plain.
        let plain = http::Uri::builder()
            .scheme("http")
            .authority(options.url.authority().context("no authority")?.clone())
            .path_and_query("/")
            .build()?;
        Endpoint::from(plain)
            .connect_with_connector(connect)
            .await?
    } else {
        endpoint.connect().await?
    };
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let path: PathAndQuery = format!("/{}", options.method).parse()?;
    let answer = match path.as_str() {
        BIDI_HELLO => return converse(grpc, path, &options.messages).await,
        CHECK => {
            let request = Request::new(Text::default());
            let codec = ProstCodec::<Text, Health>::default();
            let answer = grpc.unary(request, path, codec).await;
            answer.map(|answer| match answer.into_inner().status {
                SERVING => "SERVING".to_owned(),
                other => format!("status {other}"),
            })
        }
        _ => {
            let text = options.messages.first().cloned().unwrap_or_default();
            let codec = ProstCodec::<Text, Text>::default();
            let answer = grpc.unary(Request::new(Text { text }), path, codec).await;
            answer.map(|answer| answer.into_inner().text)
        }
    };
    match answer {
        Ok(text) => {
            println!("{text}");
            Ok(())
        }
        Err(status) => anyhow::bail!("{:?}: {}", status.code(), status.message()),
    }
}

/// Sends each message when the one before is answered: neither side may hold back what it has.
async fn converse(
    mut grpc: tonic::client::Grpc<tonic::transport::Channel>,
    path: PathAndQuery,
    messages: &[String],
) -> anyhow::Result<()> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Text>(1);
    let outgoing: Pin<Box<dyn Stream<Item = Text> + Send>> =
        Box::pin(futures::stream::unfold(receiver, |mut receiver| async {
            let text = receiver.recv().await?;
            Some((text, receiver))
        }));
    let codec = ProstCodec::<Text, Text>::default();
    let request = Request::new(outgoing);
    let answers = grpc.streaming(request, path, codec).await;
    let mut answers = answers
        .map_err(|status| anyhow::anyhow!("{:?}: {}", status.code(), status.message()))?
        .into_inner();
    for text in messages {
        let text = text.clone();
        sender.send(Text { text }).await?;
        let answer = answers.message().await?.context("the stream ended early")?;
        println!("{}", answer.text);
    }
    drop(sender);
    ensure!(
        answers.message().await?.is_none(),
        "more answers than messages"
    );
    ensure!(answers.trailers().await?.is_some(), "no trailers");
    Ok(())
}
