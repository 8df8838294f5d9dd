//! The delta stream on the wire. What many proxies are told is encoded once and leaves for each of them from the same
//! memory, which a generated gRPC server would encode and copy for each.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use http_body::Frame;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Status, Streaming};
use xds::server::{Mode, Request, Response};

use crate::ads::{Ads, Incoming};
use crate::tls::Peer;

/// The method that is served here; the others are the generated server's.
const METHOD: &str = "/DeltaAggregatedResources";

/// Longest request: the names of a large mesh; the bound on their number is the stream's.
const REQUEST_BOUND: usize = 4 * 1024 * 1024;

/// The discovery service.
#[derive(Clone)]
pub(crate) struct Discovery {
    ads: Arc<Ads>,
    generated: AggregatedDiscoveryServiceServer<Ads>,
}

/// Responses as the body of an answer.
struct Responses {
    responses: ReceiverStream<Result<Response, Status>>,
    pieces: VecDeque<Bytes>,
    ended: bool,
}

// === impl Discovery ===

impl Discovery {
    pub(crate) fn new(ads: Arc<Ads>) -> Self {
        let generated = AggregatedDiscoveryServiceServer::from_arc(ads.clone());
        Self { ads, generated }
    }

    fn serve(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let decoder = tonic_prost::ProstDecoder::<DeltaDiscoveryRequest>::default();
        let body = request.into_body();
        let requests = Streaming::new_request(decoder, body, None, Some(REQUEST_BOUND));
        let incoming: Incoming = requests
            .map(|message| message.map(|mut message| (message.node.take(), Request::from(message))))
            .boxed();
        let responses = self.ads.open(Mode::Delta, peer, incoming)?;
        let body = Responses {
            responses,
            pieces: VecDeque::new(),
            ended: false,
        };
        let mut answer = http::Response::new(Body::new(body));
        let grpc = http::HeaderValue::from_static("application/grpc");
        answer
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, grpc);
        Ok(answer)
    }
}

impl NamedService for Discovery {
    const NAME: &'static str = AggregatedDiscoveryServiceServer::<Ads>::NAME;
}

impl tower::Service<http::Request<Body>> for Discovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if !request.uri().path().ends_with(METHOD) {
            return tower::Service::call(&mut self.generated, request).boxed();
        }
        let answer = self.serve(request).unwrap_or_else(Status::into_http);
        std::future::ready(Ok(answer)).boxed()
    }
}

// === impl Responses ===

impl Responses {
    /// One gRPC message: a flag, its length, and the pieces.
    fn queue(&mut self, response: &Response) {
        let (common, own) = response.encode_delta();
        let length = common.as_ref().map_or(0, Bytes::len) + own.len();
        let mut prefix = BytesMut::with_capacity(5 + if common.is_none() { own.len() } else { 0 });
        prefix.put_u8(0);
        prefix.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        match common {
            Some(common) => self.pieces.extend([prefix.freeze(), common, own]),
            // Small: one frame.
            None => {
                prefix.extend_from_slice(&own);
                self.pieces.push_back(prefix.freeze());
            }
        }
    }
}

impl http_body::Body for Responses {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let status = match ready!(Pin::new(&mut self.responses).poll_next(cx)) {
                Some(Ok(response)) => {
                    self.queue(&response);
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            self.ended = true;
            let mut trailers = http::HeaderMap::new();
            return Poll::Ready(Some(
                status
                    .add_header(&mut trailers)
                    .map(|()| Frame::trailers(trailers)),
            ));
        }
    }
}
