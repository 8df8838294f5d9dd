//! The policy allows `/public`, not `/admin`: no spelling of `/admin` gets there.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::http_protocol_options;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager,
};
use xds::client::Kind;

use crate::frames::{Outcome, Raw, headers, request};
use crate::recorder::Recorder;
use crate::stage::{Pair, manage, pair, say, statuses};
use crate::support::{Http, any, http_chain, listener};

/// Ways to say `/admin` that pass for something else.
const SPELLINGS: &[&str] = &[
    "/admin",
    "//admin",
    "/./admin",
    "/../admin",
    "/public/../admin",
    "/public/..//admin",
    "/public/./../admin",
    "/public/%2e%2e/admin",
    "/public/%2E%2e/admin",
    "/public/.%2e/admin",
    "/public/%2e./admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/public\\..\\admin",
    "/public/..\\admin",
    "/public%5c..%5cadmin",
    "/public%2f..%2fadmin",
    "/public/..%2fadmin",
    "/public/..%2Fadmin",
    "/public/%2e%2e%2fadmin",
    "/public/%252e%252e/admin",
    "/public/..%252fadmin",
    "/public/..;/admin",
    "/public/..%3b/admin",
    "/public;/../admin",
    "/public/;/../admin",
    "/public/.;/../admin",
    "/public?/../admin",
    "/public#/../admin",
    "/public/%00/../admin",
    "/public/..%00/admin",
    "/admin/",
    "/admin/.",
    "/admin/x/..",
    "/admin%20",
    "/public/../../../../admin",
    "/public//..//..//admin",
    "/public/..%c0%afadmin",
    "/public/%c0%ae%c0%ae/admin",
    "/public/%u002e%u002e/admin",
    "/public/..%ef%bc%8fadmin",
    "/public/x/../../admin",
    "/public/%2e%2e%5cadmin",
    "http://web.ns/public/../admin",
    "http://web.ns/admin",
    "/public/%2e%2e/%61dmin",
];

/// How applications of the lenient kind read a path: decoded until nothing changes, backslashes turned, parameters cut.
fn lenient(target: &str) -> String {
    let mut path = target
        .split(['?', '#'])
        .next()
        .unwrap_or_default()
        .to_owned();
    // Once: an application that decodes twice has its own hole, which no proxy can see.
    path = decode(&path).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    format!("/{}", segments.join("/"))
}

fn decode(path: &str) -> String {
    let (mut rest, mut out) = (path.as_bytes(), Vec::new());
    while let Some((byte, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits
            .filter(|_| *byte == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        {
            Some(value) => {
                out.push(value);
                rest = &after[2..];
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn check(backend: &Recorder, spelling: &str) {
    assert_eq!(backend.broken(), [] as [String; 0]);
    for seen in backend.seen() {
        let target = seen.line().split_once(' ').unwrap().1.to_owned();
        // Encoded slashes stay encoded: no one may read them as separators without the operator saying so.
        let reads = if target.to_ascii_lowercase().contains("%2f")
            || target.to_ascii_lowercase().contains("%5c")
        {
            target.clone()
        } else {
            lenient(&target)
        };
        assert!(
            !reads.starts_with("/admin"),
            "{spelling} reached the backend as {target}"
        );
        assert!(
            target.starts_with("/public"),
            "{spelling} reached the backend as {target}"
        );
    }
}

#[tokio::test]
async fn no_spelling_of_a_forbidden_path_is_allowed() {
    for hop in [Http::One, Http::Two] {
        let backend = Recorder::new().await;
        let pair = pair(backend.address, hop);
        for spelling in SPELLINGS {
            let bytes =
                format!("GET {spelling} HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n");
            say(pair.front, bytes.as_bytes(), |_| false).await;
            check(&backend, spelling);
            let mut raw = Raw::connect(pair.front).await;
            raw.send(&headers(1, true, &request("GET", spelling))).await;
            assert_ne!(raw.outcome(1).await, Outcome::Silence, "{spelling}");
            check(&backend, spelling);
        }
        assert!(!backend.seen().is_empty(), "some spellings are of /public");
    }
}

#[tokio::test]
async fn methods_are_not_overridden_by_headers() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::One);
    for name in [
        "X-HTTP-Method-Override",
        "X-Original-URL",
        "X-Rewrite-URL",
        ":path",
        ":method",
    ] {
        let bytes = format!(
            "GET /other HTTP/1.1\r\nHost: web.ns\r\n{name}: /public\r\nConnection: close\r\n\r\n"
        );
        say(pair.front, bytes.as_bytes(), |_| false).await;
        assert_eq!(backend.seen(), [], "{name}");
    }
}

/// A listener of the client's sidecar with other rules for requests.
fn listens(pair: &mut Pair, change: impl FnOnce(&mut HttpConnectionManager)) -> SocketAddr {
    let chain = manage(http_chain("out", None), change);
    let strict = listener("strict", vec![chain], false);
    pair.client
        .push(Kind::Listener, vec![("strict", any(&strict))], &[]);
    pair.client.address("strict")
}

#[tokio::test]
async fn escaped_slashes_are_treated_as_configured() {
    use http_connection_manager::PathWithEscapedSlashesAction as Action;
    let backend = Recorder::new().await;
    let mut pair = pair(backend.address, Http::One);
    // What is asked for; status, then what arrives or where the client is sent.
    let cases = [
        (
            Action::ImplementationSpecificDefault,
            "/public/a%2Fb",
            200,
            "/public/a%2Fb",
        ),
        (Action::KeepUnchanged, "/public/a%5cb", 200, "/public/a%5Cb"),
        (Action::RejectRequest, "/public/a%2fb", 400, ""),
        (Action::RejectRequest, "/public/a%5Cb", 400, ""),
        (
            Action::RejectRequest,
            "/public/a%252fb",
            200,
            "/public/a%252fb",
        ),
        (
            Action::UnescapeAndForward,
            "/public/a%2Fb?c=%2F",
            200,
            "/public/a/b?c=%2F",
        ),
        (Action::UnescapeAndForward, "/public%2f..%2fadmin", 403, ""),
        (Action::UnescapeAndForward, "/public%5c..%5Cadmin", 403, ""),
        (
            Action::UnescapeAndRedirect,
            "/public/a%2Fb?c",
            307,
            "/public/a/b?c",
        ),
        (
            Action::UnescapeAndRedirect,
            "/public/..%2Fadmin",
            307,
            "/admin",
        ),
        (Action::UnescapeAndRedirect, "/public/a", 200, "/public/a"),
        (
            Action::UnescapeAndRedirect,
            "/%2Fevil.example",
            307,
            "http://web.ns//evil.example",
        ),
    ];
    for (action, path, status, then) in cases {
        let at = listens(&mut pair, |manager| {
            manager.path_with_escaped_slashes_action = action.into();
            manager.merge_slashes = false;
        });
        let before = backend.seen().len();
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n");
        let (said, _) = say(at, bytes.as_bytes(), |_| false).await;
        let what = format!("{action:?} {path}: {said}");
        assert_eq!(statuses(&said), [status], "{what}");
        let seen = backend.seen().split_off(before);
        match status {
            200 => assert_eq!(seen[0].line(), format!("GET {then}"), "{what}"),
            307 => assert!(said.contains(&format!("location: {then}\r\n")), "{what}"),
            _ => {}
        }
        assert_eq!(seen.len(), usize::from(status == 200), "{what}");
    }
}

#[tokio::test]
async fn names_with_underscores_are_treated_as_configured() {
    use http_protocol_options::HeadersWithUnderscoresAction as Action;
    let backend = Recorder::new().await;
    let mut pair = pair(backend.address, Http::Two);
    for (action, status, arrives) in [
        (Action::Allow, 200, true),
        (Action::DropHeader, 200, false),
        (Action::RejectRequest, 400, false),
    ] {
        let at = listens(&mut pair, |manager| {
            let options = manager.common_http_protocol_options.get_or_insert_default();
            options.headers_with_underscores_action = action.into();
        });
        let before = backend.seen().len();
        let bytes = b"GET /public HTTP/1.1\r\nHost: web.ns\r\nX_User: admin\r\nX-User: me\r\nConnection: close\r\n\r\n";
        let (said, _) = say(at, bytes, |_| false).await;
        assert_eq!(statuses(&said), [status], "{action:?}");
        let seen = backend.seen().split_off(before);
        assert_eq!(
            seen.iter().any(|seen| !seen.values("x_user").is_empty()),
            arrives,
            "{action:?}"
        );
        assert!(
            seen.iter().all(|seen| seen.values("x-user") == ["me"]),
            "{action:?}"
        );
    }
}
