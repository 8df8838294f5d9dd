//! From a route to an answer: picks the kind and the verb.

mod bind;
mod body;
pub mod crds;
mod delete;
mod read;
pub use read::{Filter, Form, check_revision, form, metadata_only, shape};
mod create;
mod reviews;
mod scale;
mod update;

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;

use crate::kinds::Kind;
use crate::request::{self, Answer, Call, ResourcePath, Route};
use crate::status::{Failure, Outcome};
use crate::{Server, discovery, exec, openapi, proxy};

/// Answers a request.
pub async fn dispatch(server: Arc<Server>, mut call: Call) -> Outcome<Answer> {
    // The watch paths of old, `/api/v1/watch/…` and `/apis/G/V/watch/…`.
    let skipped = if call.path.starts_with("/api/") { 3 } else { 4 };
    if call.path.starts_with("/api") && call.path.split('/').nth(skipped) == Some("watch") {
        call.path = call.path.replacen("/watch/", "/", 1);
        call.query.set("watch", "true");
    }
    match request::route(&call.path) {
        Route::Health => Ok(request::bytes_answer(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            "ok".into(),
        )),
        Route::Version => Ok(request::json(StatusCode::OK, &version())),
        Route::CoreVersions | Route::Groups | Route::Group(_) | Route::Resources(..) => {
            discovery::answer(&server, &call)
        }
        Route::OpenApiV2 => openapi::v2(&server, &call),
        Route::OpenApiV3(document) => openapi::v3(&server, &document),
        Route::Resource(path) => resource(server, call, path).await,
        Route::Unknown => Err(Failure::no_such_path()),
    }
}

/// What `/version` says: a level of the API, not a build of Kubernetes.
fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": "v1.33.0+osm", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2025-04-23T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// One request on one kind.
pub struct Target {
    /// The server.
    pub server: Arc<Server>,
    /// The kind, in the version of the path.
    pub kind: Arc<Kind>,
    /// Namespace or empty.
    pub namespace: String,
    /// Name or empty.
    pub name: String,
    /// Subresource or empty.
    pub subresource: String,
    /// Path below a proxy subresource.
    pub rest: String,
}

impl Target {
    /// Where the object is stored.
    pub fn key(&self) -> crate::store::Key {
        self.key_of(&self.name)
    }

    /// Where an object of this kind and namespace is stored.
    pub fn key_of(&self, name: &str) -> crate::store::Key {
        let namespace = if self.kind.namespaced {
            self.namespace.as_str()
        } else {
            ""
        };
        crate::store::Key::new(&self.kind.storage, namespace, name)
    }

    /// 404 for this object.
    pub fn not_found(&self) -> Failure {
        Failure::not_found(&self.kind.group, &self.kind.plural, &self.name)
    }
}

async fn resource(server: Arc<Server>, call: Call, path: ResourcePath) -> Outcome<Answer> {
    if let Some(answer) = reviews::answer(&server, &call, &path)? {
        return Ok(answer);
    }
    let catalogue = server.registry.now();
    if !catalogue.has_version(&path.group, &path.version) {
        let text = "404 page not found\n";
        return Ok(request::bytes_answer(
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            text.into(),
        ));
    }
    let kind = catalogue
        .find(&path.group, &path.version, &path.plural)
        .ok_or_else(Failure::no_such_path)?;
    read::acceptable(&call, path.subresource.as_deref().unwrap_or_default())?;
    let is_namespace = kind.is("", "namespaces");
    if (kind.namespaced && path.name.is_some() && path.namespace.is_none())
        || (!kind.namespaced && !is_namespace && path.namespace.is_some())
    {
        return Err(Failure::no_such_path());
    }
    let target = Target {
        server,
        namespace: path.namespace.unwrap_or_default(),
        name: path.name.unwrap_or_default(),
        subresource: path.subresource.unwrap_or_default(),
        rest: path.rest,
        kind,
    };
    let deprecation = target
        .kind
        .custom
        .as_ref()
        .and_then(|c| c.deprecation.clone());
    let answer = if target.subresource.is_empty() {
        object(target, call).await
    } else {
        subresource(target, call).await
    };
    answer.map(|mut answer| {
        request::warn(&mut answer, deprecation.as_slice());
        answer
    })
}

async fn object(target: Target, call: Call) -> Outcome<Answer> {
    match (call.method.clone(), target.name.is_empty()) {
        (Method::GET | Method::HEAD, true) => read::collection(&target, &call),
        (Method::GET | Method::HEAD, false) if call.query.flag("watch") => {
            read::watch_one(&target, &call)
        }
        (Method::GET | Method::HEAD, false) => read::object(&target, &call),
        (Method::POST, true) => create::create(&target, &call).await,
        (Method::PUT, false) => update::put(&target, &call).await,
        (Method::PATCH, false) => update::patch(&target, &call).await,
        (Method::DELETE, false) => delete::object(&target, &call).await,
        (Method::DELETE, true) if target.kind.is("", "namespaces") => {
            Err(Failure::method_not_allowed())
        }
        (Method::DELETE, true) => delete::collection(&target, &call).await,
        _ => Err(Failure::method_not_allowed()),
    }
}

async fn subresource(target: Target, call: Call) -> Outcome<Answer> {
    if !target.kind.has(&target.subresource) {
        return Err(Failure::no_such_path());
    }
    let sub = target.subresource.clone();
    match (sub.as_str(), call.method.clone()) {
        ("scale", _) => scale::answer(&target, &call).await,
        ("status" | "ephemeralcontainers", Method::GET) => read::object(&target, &call),
        ("status" | "finalize" | "ephemeralcontainers", Method::PUT) => {
            update::put(&target, &call).await
        }
        ("status" | "ephemeralcontainers", Method::PATCH) => update::patch(&target, &call).await,
        ("binding", Method::POST) => bind::bind(&target, &call).await,
        ("eviction", Method::POST) => delete::evict(&target, &call).await,
        ("token", Method::POST) => reviews::token_request(&target, &call),
        ("log", Method::GET) => exec::logs(&target, &call).await,
        ("exec" | "attach" | "portforward", Method::GET | Method::POST) => {
            exec::connect(target, call).await
        }
        ("proxy", _) => proxy::answer(&target, call).await,
        _ => Err(Failure::method_not_allowed()),
    }
}
