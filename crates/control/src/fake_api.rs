//! A Kubernetes API for unit tests: answers by a function, remembers what it was asked.

use std::sync::{Arc, Mutex};

use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// A request as the tests look at it: method and path with query.
pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

/// A client whose requests `answer` answers: number of the request, `METHOD path`, to status and
/// body lines.
pub(crate) fn client<F>(answer: F) -> (Client, Asked)
where
    F: Fn(usize, &str) -> (u16, Vec<Value>) + Send + Sync + 'static,
{
    let asked = Asked::default();
    let (log, answer) = (asked.clone(), Arc::new(answer));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let what = format!("{} {}", request.method(), request.uri());
        let number = {
            let mut log = log.lock().unwrap();
            log.push(what.clone());
            log.len() - 1
        };
        let answer = answer.clone();
        async move {
            let (status, lines) = answer(number, &what);
            if lines.is_empty() {
                // A watch without events: stays open.
                std::future::pending::<()>().await;
            }
            let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let response = http::Response::builder()
                .status(status)
                .body(Body::from(body.into_bytes()));
            Ok::<_, std::convert::Infallible>(response.unwrap())
        }
    });
    (Client::new(service, "default"), asked)
}

/// A failure as the API server writes it.
pub(crate) fn failure(code: u16, reason: &str) -> (u16, Vec<Value>) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    });
    (code, vec![status])
}
