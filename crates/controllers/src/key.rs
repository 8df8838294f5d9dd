//! Names of objects in queues and stores, and errors that say what was being done

use std::fmt;
use std::future::Future;
use std::time::Duration;

use kube::Resource;
use tracing::warn;

/// Namespace and name of an object; the namespace is empty for objects of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A call to the API server that failed, and what it was for.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {}", message(.source))]
pub(crate) struct Failure {
    pub what: String,
    #[source]
    pub source: kube::Error,
}

impl Failure {
    /// Someone else wrote first: normal, to be tried again with fresh objects.
    pub fn is_conflict(&self) -> bool {
        has_code(&self.source, 409)
    }
}

/// Adds to an API error what was being done.
pub(crate) trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> During<T> for Result<T, kube::Error> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|source| Failure {
            what: what(),
            source,
        })
    }
}

/// Takes "there is no such object" as done: what was to go is gone.
pub(crate) fn gone_is_fine<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if has_code(&error, 404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the server answered with this HTTP status.
pub(crate) fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Whether the server answered with this reason, such as `AlreadyExists`.
pub(crate) fn has_reason(error: &kube::Error, reason: &str) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == reason)
}

/// The server's own words where it answered, else the transport's.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Tries until it works, with growing pauses: for what must be known before any controller can start.
pub(crate) async fn patiently<T, Fut: Future<Output = Result<T, Failure>>>(
    attempt: impl Fn() -> Fut,
) -> T {
    let mut pause = Duration::from_millis(50);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(failure) => warn!(%failure, "trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}
