//! The certificate by SDS: one secret, renewed while it is used.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    Secret, TlsCertificate, secret,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use envoy_types::pb::google::protobuf::Any;
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::{Message, Name};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;
use xds::resources::{Resource, SECRET, Snapshot};
use xds::server::{self, Mode, Stream};

use crate::identity::Issued;
use crate::settings::Settings;

/// Responses waiting in a stream.
const QUEUE: usize = 4;

/// What the streams are answered from: nothing before the first certificate.
type Newest = watch::Receiver<Option<Arc<Snapshot>>>;

/// The service.
pub(super) struct Secrets {
    node: String,
    newest: Newest,
}

/// The certificate as the only resource.
pub(super) fn snapshot(name: &str, issued: &Issued) -> Arc<Snapshot> {
    let inline = |text: String| {
        Some(DataSource {
            specifier: Some(data_source::Specifier::InlineString(text)),
            ..DataSource::default()
        })
    };
    let certificate = TlsCertificate {
        certificate_chain: inline(issued.chain_pem.clone()),
        private_key: inline(issued.key.to_pem().to_string()),
        ..TlsCertificate::default()
    };
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::TlsCertificate(certificate)),
    };
    let any = Any {
        type_url: Secret::type_url(),
        value: secret.encode_to_vec(),
    };
    let mut snapshot = Snapshot::default();
    let secrets = snapshot.resources.entry(SECRET).or_default();
    secrets.insert(name.to_owned(), Resource::new(any));
    Arc::new(snapshot)
}

// === impl Secrets ===

impl Secrets {
    /// For the node of these settings, and for no other.
    pub(super) fn new(settings: &Settings, newest: Newest) -> Self {
        Self {
            node: settings.node().id,
            newest,
        }
    }

    /// Opens the socket, for our own user only, and serves for as long as the future lives.
    pub(super) fn serve(
        self,
        socket: &Path,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
        let context = || format!("certificate socket {}", socket.display());
        // What a predecessor in this container left.
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(context);
            }
            _ => {}
        }
        let listener = UnixListener::bind(socket).with_context(context)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
            .with_context(context)?;
        Ok(async move {
            tonic::transport::Server::builder()
                .add_service(SecretDiscoveryServiceServer::new(self))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .context("certificate socket")
        })
    }

    fn open<M>(
        &self,
        mode: Mode,
        incoming: BoxStream<'static, Result<(Option<String>, server::Request), Status>>,
    ) -> ReceiverStream<Result<M, Status>>
    where
        M: From<server::Response> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (node, newest) = (self.node.clone(), self.newest.clone());
        // Ends with the stream: when Envoy goes, reading and sending fail.
        tokio::spawn(async move {
            if let Err(status) = follow(mode, &node, newest, incoming, &sender).await {
                warn!(reason = status.message(), "certificate stream ended");
                let _ = sender.try_send(Err(status));
            }
        });
        ReceiverStream::new(receiver)
    }
}

/// A stream from its first request to its end.
async fn follow<M: From<server::Response>>(
    mode: Mode,
    node: &str,
    mut newest: Newest,
    mut incoming: BoxStream<'static, Result<(Option<String>, server::Request), Status>>,
    sender: &mpsc::Sender<Result<M, Status>>,
) -> Result<(), Status> {
    let mut stream = Stream::new(mode, newest.borrow_and_update().clone().unwrap_or_default());
    loop {
        let deadline = stream.deadline();
        // Every branch is cancel safe.
        let responses = tokio::select! {
            message = incoming.next() => match message {
                Some(Ok((of, request))) => {
                    if of.is_some_and(|of| of != node) {
                        return Err(Status::permission_denied("this certificate is another node's"));
                    }
                    let outcome = stream.request(request, Instant::now());
                    let outcome = outcome.map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
                    if let Some(nack) = outcome.nack {
                        warn!(reason = nack.message, "Envoy refuses its certificate");
                    }
                    outcome.responses
                }
                None | Some(Err(_)) => return Ok(()),
            },
            changed = newest.changed() => match changed {
                Ok(()) => {
                    let snapshot = newest.borrow_and_update().clone().unwrap_or_default();
                    stream.update(snapshot, Instant::now())
                }
                Err(_) => return Ok(()),
            },
            () = sleep_until(deadline) => stream.tick(Instant::now()),
        };
        for response in responses {
            if sender.send(Ok(M::from(response))).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type DeltaSecretsStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;
    type StreamSecretsStream = ReceiverStream<Result<DiscoveryResponse, Status>>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let incoming = request.into_inner().map(|message| {
            message.map(|mut message| (message.node.take().map(|node| node.id), message.into()))
        });
        Ok(Response::new(self.open(Mode::Delta, incoming.boxed())))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let incoming = request.into_inner().map(|message| {
            message.map(|mut message| (message.node.take().map(|node| node.id), message.into()))
        });
        Ok(Response::new(
            self.open(Mode::StateOfTheWorld, incoming.boxed()),
        ))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use envoy_types::pb::envoy::config::core::v3::Node;
    use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
    use tokio::time::timeout;

    use super::*;

    const NAME: &str = "service-cert";

    fn certificate(text: &str) -> Arc<Snapshot> {
        let any = Any {
            type_url: SECRET.to_owned(),
            value: text.as_bytes().to_vec(),
        };
        let mut snapshot = Snapshot::default();
        let secrets = snapshot.resources.entry(SECRET).or_default();
        secrets.insert(NAME.to_owned(), Resource::new(any));
        Arc::new(snapshot)
    }

    fn ask(node: &str) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: Some(Node {
                id: node.to_owned(),
                ..Node::default()
            }),
            type_url: SECRET.to_owned(),
            resource_names_subscribe: vec![NAME.to_owned()],
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// A stream to a served socket: requests in, responses out.
    async fn stream(
        socket: &Path,
    ) -> (
        mpsc::Sender<DeltaDiscoveryRequest>,
        Streaming<DeltaDiscoveryResponse>,
    ) {
        let path = socket.to_owned();
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        let channel = tonic::transport::Endpoint::from_static("http://agent")
            .connect_with_connector(connect)
            .await
            .unwrap();
        let (sender, receiver) = mpsc::channel(4);
        // The headers of the answer come with the first response.
        sender.send(ask("u-1.web")).await.unwrap();
        let mut client = SecretDiscoveryServiceClient::new(channel);
        let answer = client.delta_secrets(ReceiverStream::new(receiver)).await;
        (sender, answer.unwrap().into_inner())
    }

    fn served(socket: &Path) -> watch::Sender<Option<Arc<Snapshot>>> {
        let (sender, newest) = watch::channel(None);
        let secrets = Secrets {
            node: "u-1.web".to_owned(),
            newest,
        };
        tokio::spawn(secrets.serve(socket).unwrap());
        sender
    }

    async fn next(stream: &mut Streaming<DeltaDiscoveryResponse>) -> DeltaDiscoveryResponse {
        let message = timeout(Duration::from_secs(20), stream.message()).await;
        message.expect("within the deadline").unwrap().unwrap()
    }

    #[tokio::test]
    async fn the_certificate_comes_when_it_is_there_and_again_when_it_is_renewed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let certificates = served(&socket);
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "the key is nobody else's");
        certificates.send_replace(Some(certificate("first")));
        let (requests, mut responses) = stream(&socket).await;
        let first = next(&mut responses).await;
        assert_eq!(first.resources[0].name, NAME);
        let body = |response: &DeltaDiscoveryResponse| {
            let any = response.resources[0].resource.clone();
            String::from_utf8(any.unwrap().value).unwrap()
        };
        assert_eq!(body(&first), "first");
        let acknowledgement = DeltaDiscoveryRequest {
            type_url: SECRET.to_owned(),
            response_nonce: first.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(acknowledgement).await.unwrap();
        certificates.send_replace(Some(certificate("renewed")));
        assert_eq!(body(&next(&mut responses).await), "renewed");
    }

    #[tokio::test]
    async fn another_node_gets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let certificates = served(&socket);
        certificates.send_replace(Some(certificate("first")));
        let (requests, mut responses) = stream(&socket).await;
        next(&mut responses).await;
        requests.send(ask("u-2.other")).await.unwrap();
        let ended = timeout(Duration::from_secs(20), responses.message()).await;
        let status = ended.expect("within the deadline").unwrap_err();
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
    }

    #[tokio::test]
    async fn a_socket_left_by_a_predecessor_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let first = served(&socket);
        drop(first);
        let certificates = served(&socket);
        certificates.send_replace(Some(certificate("second")));
        let (_requests, mut responses) = stream(&socket).await;
        assert_eq!(next(&mut responses).await.resources.len(), 1);
    }
}
