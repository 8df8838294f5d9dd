//! Plays exchanges against a server

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt, TryStreamExt};
use http::{Request, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::normal::normal;
use crate::table::{Exchange, Step};

/// How long a step may wait for what it wants to see.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two tries of a step with `until`.
const PAUSE: Duration = Duration::from_millis(100);
/// Exchanges played at once; each has its own namespace.
const AT_ONCE: usize = 4;

/// An answer with all that is volatile taken out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The request it answers, as in the table.
    pub request: String,
    /// HTTP status.
    pub status: u16,
    /// What of the body counts; of a watch the list of events.
    pub body: Value,
}

/// A connection to one server.
pub struct Player {
    admin: Client,
    anonymous: Client,
}

// === impl Player ===

impl Player {
    /// Connects as the kubeconfig says.
    pub async fn connect(kubeconfig: &Path) -> Result<Self> {
        let read =
            Kubeconfig::read_from(kubeconfig).with_context(|| kubeconfig.display().to_string())?;
        Self::with(read).await
    }

    /// Connects as the kubeconfig says.
    pub async fn with(kubeconfig: Kubeconfig) -> Result<Self> {
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let mut plain = config.clone();
        plain.auth_info = kube::config::AuthInfo::default();
        Ok(Self {
            admin: Client::try_from(config)?,
            anonymous: Client::try_from(plain)?,
        })
    }

    /// Plays exchanges, several at once; the answers come in their order.
    pub async fn play_all(&self, file: &str, exchanges: &[Exchange]) -> Vec<Result<Vec<Answer>>> {
        let numbered: Vec<(usize, &Exchange)> = exchanges.iter().enumerate().collect();
        let played = stream::iter(numbered).map(|(at, exchange)| {
            let namespace = format!("parity-{file}-{at}");
            async move {
                self.play(exchange, &namespace)
                    .await
                    .with_context(|| format!("{file}: {}", exchange.name))
            }
        });
        played.buffered(AT_ONCE).collect().await
    }

    /// Plays one exchange in a namespace made for it.
    pub async fn play(&self, exchange: &Exchange, namespace: &str) -> Result<Vec<Answer>> {
        self.make_namespace(namespace).await?;
        let mut values: BTreeMap<String, String> = [("NS".to_owned(), namespace.to_owned())].into();
        let mut answers = Vec::new();
        let mut result = Ok(());
        for (at, step) in exchange.steps.iter().enumerate() {
            match self
                .step(step, &mut values)
                .await
                .with_context(|| format!("step {} {}", at + 1, step.request))
            {
                Ok(answer) => answers.extend(answer),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let gone = Request::delete(format!("/api/v1/namespaces/{namespace}")).body(Body::empty())?;
        let _ = self.send(&self.admin, gone).await;
        result.map(|()| answers)
    }

    /// A namespace of an earlier run may still be on its way out.
    async fn make_namespace(&self, name: &str) -> Result<()> {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            .to_string();
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let request = Request::post("/api/v1/namespaces")
                .header(header::CONTENT_TYPE, "application/json");
            let (status, answer) = self
                .send(
                    &self.admin,
                    request.body(Body::from(body.clone().into_bytes()))?,
                )
                .await?;
            match status {
                201 => return Ok(()),
                _ if Instant::now() > until => {
                    bail!("cannot make namespace {name}: {status} {answer}")
                }
                409 => {
                    let gone =
                        Request::delete(format!("/api/v1/namespaces/{name}")).body(Body::empty())?;
                    self.send(&self.admin, gone).await?;
                    sleep(PAUSE).await;
                }
                _ => sleep(PAUSE).await,
            }
        }
    }

    async fn step(
        &self,
        step: &Step,
        values: &mut BTreeMap<String, String>,
    ) -> Result<Option<Answer>> {
        let until = Instant::now() + PATIENCE;
        let (status, body) = loop {
            let (status, body) = self.ask(step, values).await?;
            let reached = step
                .until
                .iter()
                .all(|(pointer, wanted)| body.pointer(pointer) == Some(wanted));
            if reached && !(step.prepare && status >= 300) {
                break (status, body);
            }
            if Instant::now() > until {
                bail!(
                    "not reached in time: {:?}, last answer {status} {body}",
                    step.until
                );
            }
            sleep(PAUSE).await;
        };
        for (name, pointer) in &step.save {
            let value = body.pointer(pointer).with_context(|| {
                format!("nothing at {pointer} to save as {name}: {status} {body}")
            })?;
            values.insert(
                name.clone(),
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned),
            );
        }
        if step.prepare {
            return Ok(None);
        }
        Ok(Some(Answer {
            request: step.request.clone(),
            status,
            body: counted(step, normal(&body)),
        }))
    }

    async fn ask(&self, step: &Step, values: &BTreeMap<String, String>) -> Result<(u16, Value)> {
        let line = filled(&step.request, values);
        let (method, path) = line
            .split_once(' ')
            .with_context(|| format!("{line:?} is not METHOD PATH"))?;
        let content = match (&step.raw, &step.body) {
            (Some(raw), _) => filled(raw, values),
            (None, Some(body)) => filled(&body.to_string(), values),
            (None, None) => String::new(),
        };
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(
            header::ACCEPT,
            step.accept.as_deref().unwrap_or("application/json"),
        );
        if !content.is_empty() {
            request = request.header(
                header::CONTENT_TYPE,
                step.content_type.as_deref().unwrap_or("application/json"),
            );
        }
        let client = match &step.token {
            Some(token) => {
                if !token.is_empty() {
                    request = request.header(
                        header::AUTHORIZATION,
                        format!("Bearer {}", filled(token, values)),
                    );
                }
                &self.anonymous
            }
            None => &self.admin,
        };
        let request = request.body(Body::from(content.into_bytes()))?;
        match step.events {
            None => self.send(client, request).await,
            Some(count) => watch(client, request, count).await,
        }
    }

    async fn send(&self, client: &Client, request: Request<Body>) -> Result<(u16, Value)> {
        let response = timeout(PATIENCE, client.send(request))
            .await
            .context("no answer in time")??;
        let status = response.status().as_u16();
        let bytes = timeout(PATIENCE, response.into_body().collect())
            .await
            .context("no body in time")??
            .to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        let body = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()));
        Ok((status, body))
    }
}

/// Reads so many events of a watch, or what came until the server ended it.
async fn watch(client: &Client, request: Request<Body>, count: usize) -> Result<(u16, Value)> {
    let response = timeout(PATIENCE, client.send(request))
        .await
        .context("no answer in time")??;
    let status = response.status().as_u16();
    let mut body = response.into_body().into_data_stream();
    let mut text = Vec::new();
    while text.iter().filter(|byte| **byte == b'\n').count() < count {
        match timeout(PATIENCE, body.try_next()).await {
            Ok(Ok(Some(chunk))) => text.extend_from_slice(&chunk),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return Err(error).context("watch broke"),
            Err(_) => bail!(
                "only these of {count} events in time: {}",
                String::from_utf8_lossy(&text)
            ),
        }
    }
    let text = String::from_utf8_lossy(&text);
    let events: Vec<Value> = text
        .lines()
        .take(count)
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    Ok((status, Value::Array(events)))
}

/// `$NS` and `${name}` replaced by their values.
fn filled(text: &str, values: &BTreeMap<String, String>) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| {
        let text = text.replace(&format!("${{{name}}}"), value);
        if name == "NS" {
            text.replace("$NS", value)
        } else {
            text
        }
    })
}

/// The parts of the body that count.
fn counted(step: &Step, mut body: Value) -> Value {
    for pointer in &step.ignore {
        remove(&mut body, pointer);
    }
    match &step.compare {
        None => body,
        Some(pointers) => pointers
            .iter()
            .map(|p| (p.clone(), body.pointer(p).cloned().unwrap_or(Value::Null)))
            .collect(),
    }
}

/// Removes what the pointer names; `*` is every element of a list or map.
fn remove(value: &mut Value, pointer: &str) {
    let Some((first, rest)) = pointer
        .strip_prefix('/')
        .map(|p| p.split_once('/').unwrap_or((p, "")))
    else {
        return;
    };
    let first = first.replace("~1", "/").replace("~0", "~");
    let rest = if rest.is_empty() {
        None
    } else {
        Some(format!("/{rest}"))
    };
    match (value, first.as_str(), rest) {
        (Value::Array(list), "*", Some(rest)) => {
            list.iter_mut().for_each(|value| remove(value, &rest))
        }
        (Value::Object(map), "*", Some(rest)) => {
            map.values_mut().for_each(|value| remove(value, &rest))
        }
        (Value::Object(map), key, Some(rest)) => {
            if let Some(value) = map.get_mut(key) {
                remove(value, &rest);
            }
        }
        (Value::Object(map), key, None) => drop(map.remove(key)),
        (Value::Array(list), index, rest) => {
            let at = index.parse::<usize>().ok().filter(|at| *at < list.len());
            match (at, rest) {
                (Some(at), None) => drop(list.remove(at)),
                (Some(at), Some(rest)) => list
                    .get_mut(at)
                    .into_iter()
                    .for_each(|value| remove(value, &rest)),
                (None, _) => {}
            }
        }
        _ => {}
    }
}
