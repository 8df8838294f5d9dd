//! The backend's HTTP/2.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};

use super::{Received, Reply, Session};
use crate::client::h2::fields;
use crate::message::{Body, Transport};

pub(super) async fn serve(session: Arc<Session>, stream: Box<dyn Transport>) {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let session = session.clone();
        tokio::spawn(async move {
            // The peer may have gone: then there is nobody to answer.
            let _ = stream_of(session, request, respond).await;
        });
    }
}

async fn stream_of(
    session: Arc<Session>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (parts, mut incoming) = request.into_parts();
    let note = session.note(Received {
        version: "HTTP/2".to_owned(),
        method: parts.method.to_string(),
        target: parts
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        authority: parts.uri.authority().map(ToString::to_string),
        fields: fields(&parts.headers),
        ..Received::default()
    });
    let (is_early, mut reply) = match &note.reply {
        Reply::Early(reply) => (true, reply.as_ref()),
        reply => (false, reply),
    };
    if !is_early {
        let mut body = Body::default();
        while let Some(chunk) = incoming.data().await {
            let chunk = chunk?;
            let _ = incoming.flow_control().release_capacity(chunk.len());
            body.content.extend_from_slice(&chunk);
        }
        let trailers = incoming.trailers().await?;
        body.trailers = trailers.map(|map| fields(&map)).unwrap_or_default();
        body.is_complete = true;
        session.complete(&note, body);
    }
    while let Reply::After(wait, then) = reply {
        tokio::time::sleep(*wait).await;
        reply = then;
    }
    match reply {
        Reply::Answer {
            status,
            fields,
            body,
            trailers,
        } => {
            let mut response = Response::builder().status(*status);
            for (name, value) in fields {
                response = response.header(name, value);
            }
            // A HEAD has neither, whatever is scripted.
            let bare = parts.method == http::Method::HEAD;
            let ends = bare || (body.is_empty() && trailers.is_empty());
            let response = response.body(()).expect("a response");
            let mut stream = respond.send_response(response, ends)?;
            if bare {
                return Ok(());
            }
            if !body.is_empty() {
                stream.send_data(Bytes::copy_from_slice(body), trailers.is_empty())?;
            }
            if !trailers.is_empty() {
                let map: HeaderMap = trailers
                    .iter()
                    .filter_map(|(name, value)| {
                        let name = HeaderName::try_from(name).ok()?;
                        Some((name, HeaderValue::try_from(value).ok()?))
                    })
                    .collect();
                stream.send_trailers(map)?;
            }
        }
        Reply::Reset(code) => respond.send_reset(Reason::from(*code)),
        Reply::Close => respond.send_reset(Reason::INTERNAL_ERROR),
        // Waits for the proxy's reset; then the stream is gone with its handles.
        _ => {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        }
    }
    Ok(())
}
