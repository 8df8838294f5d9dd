//! `pods/NAME:PORT/proxy` and `services/NAME:PORT/proxy`: plain HTTP to a pod through the cluster network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;

use crate::admission::{dial, endpoint};
use crate::object::{items, text};
use crate::request::{Answer, Call};
use crate::rest::Target;
use crate::status::{Failure, Outcome};
use crate::store::Key;

/// Until the answer's head; its body may take as long as it wants.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Headers of one hop, and credentials that are ours alone.
const DROPPED: [header::HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
];

/// Answers a proxied request.
pub async fn answer(target: &Target, call: Call) -> Outcome<Answer> {
    let address = resolve(target)?;
    let path = if target.rest.is_empty() {
        "/"
    } else {
        target.rest.as_str()
    };
    let uri = if call.raw_query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", call.raw_query)
    };
    let uri: Uri = uri
        .parse()
        .map_err(|e| Failure::bad_request(format!("proxied path {path:?}: {e}")))?;
    let unreachable =
        |e: String| Failure::unavailable(format!("error trying to reach service: {e}"));
    let stream = dial(&target.server, address).await.map_err(unreachable)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| unreachable(e.to_string()))?;
    // Ends with the answer's body: then the sender and the body are gone and the connection closes.
    tokio::spawn(connection);
    let mut request = http::Request::new(Full::new(call.body));
    *request.method_mut() = call.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = forwarded(&call.headers);
    if let Ok(host) = address.to_string().parse() {
        request.headers_mut().insert(header::HOST, host);
    }
    let sent = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
    let answer = sent
        .map_err(|_| unreachable("timed out".to_owned()))?
        .map_err(|e| unreachable(e.to_string()))?;
    let (mut parts, body) = answer.into_parts();
    for name in &DROPPED {
        parts.headers.remove(name);
    }
    parts.version = http::Version::default();
    Ok(Answer::from_parts(
        parts,
        body.map_err(std::io::Error::other).boxed_unsync(),
    ))
}

fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = headers.clone();
    for name in &DROPPED {
        forwarded.remove(name);
    }
    forwarded
}

/// `[scheme:]name[:port]`
fn split(name: &str) -> Outcome<(&str, &str)> {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [name] => Ok((name, "")),
        [name, port] => Ok((name, port)),
        ["http" | "", name, port] => Ok((name, port)),
        _ => Err(Failure::bad_request(format!(
            "invalid proxy target {name:?}: only http is supported"
        ))),
    }
}

fn resolve(target: &Target) -> Outcome<SocketAddr> {
    let (name, port) = split(&target.name)?;
    let key = Key::new(&target.kind.storage, &target.namespace, name);
    let found = target.server.store.get(&key).map(|(o, _)| o);
    let object: Arc<serde_json::Value> =
        found.ok_or_else(|| Failure::not_found(&target.kind.group, &target.kind.plural, name))?;
    if target.kind.plural == "services" {
        let wanted = items(&object, "/spec/ports").find(|p| {
            let same = |n: u16| p["port"] == n;
            port.is_empty() || text(p, "/name") == port || port.parse().is_ok_and(same)
        });
        let number = wanted
            .and_then(|p| p["port"].as_u64())
            .and_then(|p| u16::try_from(p).ok());
        let number = number.ok_or_else(|| {
            Failure::unavailable(format!(
                "no service port {port:?} found for service {name:?}"
            ))
        })?;
        return endpoint(&target.server, &target.namespace, name, number)
            .map_err(Failure::unavailable);
    }
    let declared = || {
        items(&object, "/spec/containers")
            .flat_map(|c| items(c, "/ports"))
            .find(|p| port.is_empty() || text(p, "/name") == port)
    };
    let number = match port.parse::<u16>() {
        Ok(number) => number,
        Err(_) => declared()
            .and_then(|p| p["containerPort"].as_u64())
            .and_then(|p| u16::try_from(p).ok())
            .unwrap_or(80),
    };
    let ip = text(&object, "/status/podIP").parse();
    let ip = ip.map_err(|_| {
        Failure::bad_request(format!("address not allowed: pod {name} has no IP yet"))
    })?;
    Ok(SocketAddr::new(ip, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_split() {
        assert_eq!(split("a").unwrap(), ("a", ""));
        assert_eq!(split("a:80").unwrap(), ("a", "80"));
        assert_eq!(split("http:a:web").unwrap(), ("a", "web"));
        assert!(split("https:a:443").is_err());
    }
}
