//! Watches: changes of a resource as a stream of JSON lines.
//!
//! A watch is a position in the store's ring of events. It reads on when the revision moves, at its own pace; when it has
//! slept through more than the ring holds, it is told 410 and ends, and the client lists anew.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::Server;
use crate::convert;
use crate::kinds::Kind;
use crate::object;
use crate::request::{Answer, Call};
use crate::rest::Target;
use crate::rest::{Filter, Form, check_revision, form, metadata_only, shape};
use crate::status::{Failure, Outcome};
use crate::store::{Change, Event};
use crate::table::Shape;

/// How often an idle watch that asked for bookmarks gets one.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// A watch without timeout ends after between this and twice this, as in Kubernetes, so that clients spread.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// Lines written ahead of a slow client.
const AHEAD: usize = 64;

struct Watch {
    server: Arc<Server>,
    kind: Arc<Kind>,
    namespace: Option<String>,
    filter: Filter,
    form: Form,
    shape: Shape,
    position: u64,
    bookmarks: bool,
    /// Table columns are sent once.
    headed: bool,
}

/// Starts a watch.
pub fn start(
    target: &Target,
    call: &Call,
    namespace: Option<&str>,
    filter: Filter,
) -> Outcome<Answer> {
    let text = call.query.get("resourceVersion").unwrap_or_default();
    let wanted = check_revision(target, text)?;
    let initial = call.query.flag("sendInitialEvents");
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let timeout = match call.query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => {
            DEFAULT_TIMEOUT
                + Duration::from_secs(
                    uuid::Uuid::new_v4().as_u128() as u64 % DEFAULT_TIMEOUT.as_secs(),
                )
        }
    };
    let mut watch = Watch {
        server: target.server.clone(),
        kind: target.kind.clone(),
        namespace: namespace.map(str::to_owned),
        filter,
        form: form(call),
        shape: shape(target, call),
        position: 0,
        bookmarks,
        headed: false,
    };
    let mut first = VecDeque::new();
    match wanted {
        Some(revision) if revision > 0 && !initial => {
            watch.position = revision;
            if let Err(oldest) = watch.server.store.events(&watch.kind.storage, revision) {
                // Told inside the stream, as the real server does for a watch.
                first.push_back(line("ERROR", &too_old(revision, oldest).body()));
                return Ok(stream(
                    futures::stream::iter(first.into_iter().map(Ok)).boxed(),
                ));
            }
        }
        _ => first = watch.snapshot(initial),
    }
    let (send, receive) = tokio::sync::mpsc::channel(AHEAD);
    // Ends when the client goes (the receiver is dropped), at its deadline, or with the server.
    tokio::spawn(async move {
        let stop = watch.server.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = send.closed() => {}
            () = watch.run(first, &send, Instant::now() + timeout) => {}
        }
    });
    Ok(stream(ReceiverStream::new(receive).map(Ok).boxed()))
}

fn too_old(revision: u64, oldest: u64) -> Failure {
    Failure::expired(format!("too old resource version: {revision} ({oldest})"))
}

fn stream(lines: futures::stream::BoxStream<'static, Result<Bytes, std::io::Error>>) -> Answer {
    let body = StreamBody::new(lines.map(|line| line.map(Frame::data))).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::OK;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    answer
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut bytes =
        serde_json::to_vec(&json!({"type": kind, "object": object})).unwrap_or_default();
    bytes.push(b'\n');
    Bytes::from(bytes)
}

impl Watch {
    /// The present objects as additions; then, if the client asked for them as its list, the mark of their end.
    fn snapshot(&mut self, marked: bool) -> VecDeque<Bytes> {
        let (objects, revision) = self
            .server
            .store
            .list(&self.kind.storage, self.namespace.as_deref());
        self.position = revision;
        let mut lines = VecDeque::new();
        for object in &objects {
            if self.filter.matches(object) {
                let object = self.render(object);
                lines.push_back(line("ADDED", &object));
            }
        }
        if marked {
            lines.push_back(self.bookmark(true));
        }
        lines
    }

    fn render(&mut self, stored: &Arc<Value>) -> Value {
        let object = convert::present(&self.kind, stored);
        match self.form {
            Form::Object => (*object).clone(),
            Form::Metadata => metadata_only(&object),
            Form::Table => {
                let mut table = self.shape.table(std::slice::from_ref(&object));
                table["metadata"]["resourceVersion"] =
                    object["metadata"]["resourceVersion"].clone();
                if std::mem::replace(&mut self.headed, true)
                    && let Some(map) = table.as_object_mut()
                {
                    map.insert("columnDefinitions".to_owned(), Value::Null);
                }
                table
            }
        }
    }

    fn bookmark(&self, initial_end: bool) -> Bytes {
        let mut object = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": self.position.to_string(), "creationTimestamp": null},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        line("BOOKMARK", &object)
    }

    async fn run(
        mut self,
        first: VecDeque<Bytes>,
        send: &tokio::sync::mpsc::Sender<Bytes>,
        deadline: Instant,
    ) {
        let mut changes = self.server.store.changes();
        for line in first {
            if send.send(line).await.is_err() {
                return;
            }
        }
        let mut next_bookmark = Instant::now() + BOOKMARK_PERIOD;
        loop {
            changes.mark_unchanged();
            match self.server.store.events(&self.kind.storage, self.position) {
                Err(oldest) => {
                    let _ = send
                        .send(line("ERROR", &too_old(self.position, oldest).body()))
                        .await;
                    return;
                }
                Ok((events, position)) => {
                    for event in events {
                        if let Some(line) = self.event(&event)
                            && send.send(line).await.is_err()
                        {
                            return;
                        }
                    }
                    self.position = position;
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(deadline) => {
                    if self.bookmarks {
                        let _ = send.send(self.bookmark(false)).await;
                    }
                    return;
                }
                () = tokio::time::sleep_until(next_bookmark) => {
                    next_bookmark = Instant::now() + BOOKMARK_PERIOD;
                    if self.bookmarks && send.send(self.bookmark(false)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// What a change is to this watch: an object that comes into the selection is added, one that leaves it is deleted.
    fn event(&mut self, event: &Event) -> Option<Bytes> {
        if self
            .namespace
            .as_deref()
            .is_some_and(|n| n != object::namespace(&event.object))
        {
            return None;
        }
        let now = event.change != Change::Deleted && self.filter.matches(&event.object);
        let before = event
            .previous
            .as_ref()
            .is_some_and(|p| self.filter.matches(p));
        let kind = match (before, now) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        // What leaves the selection is shown as it was while in it, at the revision of its leaving.
        let left = event
            .previous
            .as_ref()
            .filter(|_| kind == "DELETED" && event.change == Change::Modified);
        let object = match left {
            Some(previous) => {
                let mut previous = (**previous).clone();
                object::metadata(&mut previous).insert(
                    "resourceVersion".to_owned(),
                    json!(event.revision.to_string()),
                );
                self.render(&Arc::new(previous))
            }
            None => self.render(&event.object),
        };
        Some(line(kind, &object))
    }
}
