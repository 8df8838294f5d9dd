//! The delta stream on the wire. What many proxies are told is encoded once and leaves for each of them from the same
//! memory, which a generated gRPC server would encode and copy for each.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use http_body::Frame;
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use xds::server::{Mode, Request, Response};

use crate::ads::{Ads, Incoming};
use crate::tls::Peer;

/// The method that is served here; the others are the generated server's.
const METHOD: &str = "/DeltaAggregatedResources";

/// A flag and a length in front of each message.
const PREFIX: usize = 5;

/// Longest request: the names of a large mesh; the bound on their number is the stream's.
const REQUEST_BOUND: usize = 4 * 1024 * 1024;

/// The discovery service.
#[derive(Clone)]
pub(crate) struct Discovery {
    ads: Arc<Ads>,
    generated: AggregatedDiscoveryServiceServer<Ads>,
}

/// Requests from the body of a call. Idle it holds nothing: the names of a large mesh, asked for once, would else be
/// the most that a stream costs.
struct Requests {
    body: Body,
    buffer: BytesMut,
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
        let requests = Requests {
            body: request.into_body(),
            buffer: BytesMut::new(),
        };
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

// === impl Requests ===

impl Requests {
    /// The next request, if all of it has come.
    fn whole(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        let Some((&compressed, rest)) = self.buffer.split_first() else {
            return Ok(None);
        };
        let Some(length) = rest.first_chunk() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if compressed != 0 {
            return Err(Status::unimplemented("compressed requests are not taken"));
        }
        if length > REQUEST_BOUND {
            let message = format!("a request of more than {REQUEST_BOUND} bytes");
            return Err(Status::resource_exhausted(message));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(length);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        let request = DeltaDiscoveryRequest::decode(message);
        request
            .map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

impl Stream for Requests {
    type Item = Result<DeltaDiscoveryRequest, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        use http_body::Body as _;
        loop {
            if let Some(request) = self.whole().transpose() {
                return Poll::Ready(Some(request));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

// === impl Responses ===

impl Responses {
    /// One gRPC message: a flag, its length, and the pieces.
    fn queue(&mut self, response: &Response) {
        let (common, own) = response.encode_delta();
        let length = common.as_ref().map_or(0, Bytes::len) + own.len();
        let mut prefix =
            BytesMut::with_capacity(PREFIX + if common.is_none() { own.len() } else { 0 });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(name: &str) -> Vec<u8> {
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: vec![name.to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap();
        [&[0], &length.to_be_bytes()[..], &message].concat()
    }

    #[test]
    fn requests_are_taken_whole_however_they_come() {
        let bytes = [framed("a"), framed(&"b".repeat(300))].concat();
        for size in [1, 3, bytes.len()] {
            let mut requests = Requests {
                body: Body::empty(),
                buffer: BytesMut::new(),
            };
            let mut lengths = Vec::new();
            for chunk in bytes.chunks(size) {
                requests.buffer.extend_from_slice(chunk);
                while let Some(request) = requests.whole().unwrap() {
                    lengths.push(request.resource_names_subscribe[0].len());
                }
            }
            assert_eq!((lengths, requests.buffer.capacity()), (vec![1, 300], 0));
        }
    }

    #[test]
    fn what_is_compressed_too_long_or_no_request_is_refused() {
        let long = u32::try_from(REQUEST_BOUND + 1).unwrap().to_be_bytes();
        for (bytes, code) in [
            (vec![1, 0, 0, 0, 0], tonic::Code::Unimplemented),
            ([&[0], &long[..]].concat(), tonic::Code::ResourceExhausted),
            (vec![0, 0, 0, 0, 1, 7], tonic::Code::InvalidArgument),
        ] {
            let mut requests = Requests {
                body: Body::empty(),
                buffer: BytesMut::from(&bytes[..]),
            };
            assert_eq!(requests.whole().unwrap_err().code(), code, "{bytes:?}");
        }
    }
}
