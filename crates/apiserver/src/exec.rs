//! Pods' exec, attach, log and port-forward: the node does them, this file speaks the clients' protocols.

mod forward;
mod session;

use base64::Engine;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::backend::{BackendError, ExecRequest, LogRequest, PodBackend, Target as Container};
use crate::object::{self, items, text};
use crate::request::{Answer, Call};
use crate::rest::Target;
use crate::status::{Failure, Outcome};

/// Remote command protocols, the newest first; v5 added closing of one channel.
const EXEC_PROTOCOLS: [&str; 3] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];
const FORWARD_PROTOCOLS: [&str; 3] = [
    "v4.channel.k8s.io",
    "v5.channel.k8s.io",
    "portforward.k8s.io",
];

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::NotFound(text) => Self::new(404, "NotFound", text),
            BackendError::BadRequest(text) => Self::bad_request(text),
            BackendError::Internal(text) => Self::internal(text),
        }
    }
}

fn backend(target: &Target) -> Outcome<std::sync::Arc<dyn PodBackend>> {
    target
        .server
        .backend
        .get()
        .cloned()
        .ok_or_else(|| Failure::unavailable("no node is connected to this API server"))
}

fn pod(target: &Target) -> Outcome<std::sync::Arc<Value>> {
    target
        .server
        .store
        .get(&target.key())
        .map(|(pod, _)| pod)
        .ok_or_else(|| target.not_found())
}

/// The container a request means: the one it names, or the only one.
fn container(pod: &Value, wanted: Option<&str>) -> Outcome<Container> {
    let names = |list: &str| {
        items(pod, list)
            .map(|c| text(c, "/name").to_owned())
            .collect::<Vec<_>>()
    };
    let (mains, inits, extra) = (
        names("/spec/containers"),
        names("/spec/initContainers"),
        names("/spec/ephemeralContainers"),
    );
    let name = object::name(pod);
    let container = match (wanted.filter(|w| !w.is_empty()), mains.as_slice()) {
        (Some(wanted), _)
            if mains
                .iter()
                .chain(&inits)
                .chain(&extra)
                .any(|c| c == wanted) =>
        {
            wanted.to_owned()
        }
        (Some(wanted), _) => {
            return Err(Failure::bad_request(format!(
                "container {wanted} is not valid for pod {name}"
            )));
        }
        (None, [only]) => only.clone(),
        (None, many) => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                many.join(" ")
            );
            if !inits.is_empty() {
                message.push_str(&format!(
                    " or one of the init containers: [{}]",
                    inits.join(" ")
                ));
            }
            return Err(Failure::bad_request(message));
        }
    };
    if text(pod, "/spec/nodeName").is_empty() {
        return Err(Failure::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    Ok(Container {
        namespace: object::namespace(pod).to_owned(),
        pod: name.to_owned(),
        uid: object::uid(pod).to_owned(),
        container,
    })
}

/// Answers GET on `pods/NAME/log`.
pub async fn logs(target: &Target, call: &Call) -> Outcome<Answer> {
    let pod = pod(target)?;
    let query = &call.query;
    let seconds = query
        .number("sinceSeconds")?
        .and_then(|s| i64::try_from(s).ok());
    let ago = |s: i64| {
        jiff::Timestamp::now()
            .checked_sub(jiff::SignedDuration::from_secs(s))
            .ok()
    };
    let request = LogRequest {
        target: container(&pod, query.get("container"))?,
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: query.number("tailLines")?,
        since: seconds
            .and_then(ago)
            .or_else(|| query.get("sinceTime").and_then(|t| t.parse().ok())),
        limit_bytes: query.number("limitBytes")?,
    };
    let chunks = backend(target)?.logs(request).await?;
    let body = StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync();
    let mut answer = Response::new(body);
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(answer)
}

/// Answers exec, attach and portforward.
pub async fn connect(target: Target, mut call: Call) -> Outcome<Answer> {
    let pod = pod(&target)?;
    let forward = target.subresource == "portforward";
    let known: &[&str] = if forward {
        &FORWARD_PROTOCOLS
    } else {
        &EXEC_PROTOCOLS
    };
    let (upgrade, protocol, accept) = websocket(&mut call, known)?;
    let backend = backend(&target)?;
    if forward {
        let ports = forward::ports(&call, &pod)?;
        tokio::spawn(forward::run(
            upgrade,
            backend,
            ports,
            target.server.stop.clone(),
        ));
        return Ok(switching(protocol, &accept));
    }
    let query = &call.query;
    let tty = query.flag("tty");
    let request = ExecRequest {
        target: container(&pod, query.get("container"))?,
        command: query.all("command").map(str::to_owned).collect(),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr") && !tty,
        tty,
    };
    let session = if target.subresource == "attach" {
        backend.attach(request).await?
    } else {
        if request.command.is_empty() {
            return Err(Failure::bad_request(
                "you must specify at least one command for the container",
            ));
        }
        backend.exec(request).await?
    };
    tokio::spawn(session::run(upgrade, session, target.server.stop.clone()));
    Ok(switching(protocol, &accept))
}

type Upgrade = hyper::upgrade::OnUpgrade;

/// Checks a WebSocket handshake; picks the first of our protocols that the client offers.
fn websocket(call: &mut Call, known: &[&'static str]) -> Outcome<(Upgrade, &'static str, String)> {
    let upgrade = call
        .upgrade
        .take()
        .ok_or_else(|| Failure::bad_request("Upgrade request required"))?;
    if !call
        .header(header::UPGRADE)
        .eq_ignore_ascii_case("websocket")
    {
        return Err(Failure::bad_request(format!(
            "unable to upgrade: protocol {:?} is not supported, only WebSocket is",
            call.header(header::UPGRADE)
        )));
    }
    let offered: Vec<String> = call
        .headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|p| p.trim().to_owned())
        .collect();
    let protocol = known
        .iter()
        .find(|k| offered.iter().any(|o| o == *k))
        .copied()
        .ok_or_else(|| {
            Failure::bad_request(format!(
                "unable to upgrade: none of the subprotocols {offered:?} is supported"
            ))
        })?;
    let key = call.header(header::SEC_WEBSOCKET_KEY);
    let valid = base64::engine::general_purpose::STANDARD
        .decode(key)
        .is_ok_and(|k| k.len() == 16);
    if !valid {
        return Err(Failure::bad_request(
            "the Sec-WebSocket-Key header is missing or malformed",
        ));
    }
    let accept = derive_accept_key(key.as_bytes());
    Ok((upgrade, protocol, accept))
}

fn switching(protocol: &'static str, accept: &str) -> Answer {
    let body = Full::new(Bytes::new())
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(protocol),
    );
    if let Ok(value) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, value);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_named_or_the_only_one() {
        let pod = |containers: Value| json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "node1", "containers": containers, "initContainers": [{"name": "i"}]}});
        let one = pod(json!([{"name": "a"}]));
        assert_eq!(container(&one, None).unwrap().container, "a");
        assert_eq!(container(&one, Some("i")).unwrap().container, "i");
        assert_eq!(
            container(&one, Some("z")).unwrap_err().message,
            "container z is not valid for pod p"
        );
        let two = pod(json!([{"name": "a"}, {"name": "b"}]));
        assert_eq!(
            container(&two, None).unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
    }
}
