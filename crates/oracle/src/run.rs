//! Runs a check against one proxy; what was seen becomes JSON, freed of what may differ from run to run.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Map, Value, json};
use testkit::client::h2_raw::Verdict;
use testkit::client::{Target, h1, h2, h2_raw};
use testkit::message::{End, Fields};
use testkit::{Authority, Backend, Leaf, Received};

use crate::check::{Check, Frame, Request, Tls, Version};

/// Longest wait for an answer, if the check does not say otherwise.
const LIMIT: Duration = Duration::from_millis(2500);

/// Response fields whose value is the clock's or chance's.
const MASKED: [&str; 3] = ["date", "x-envoy-upstream-service-time", "x-request-id"];
/// Bodies longer than this are told by length and ends.
const SHOWN: usize = 400;

/// One proxy under test and what stands behind it.
pub struct Side<'a> {
    /// Its loopback address.
    pub ip: Ipv4Addr,
    /// The backends by name.
    pub backends: &'a BTreeMap<&'static str, Backend>,
    /// The clients' certificates by name.
    pub leafs: &'a BTreeMap<&'static str, Leaf>,
}

/// What a check observed.
pub type Observation = Value;

// === impl Side ===

impl Side<'_> {
    /// Runs a check.
    pub async fn run(&self, check: &Check, port: u16) -> Observation {
        self.take();
        let limit = match check.limit {
            0 => LIMIT,
            millis => Duration::from_millis(millis),
        };
        let target = self.target(check, port);
        let mut observation = Map::new();
        if check.repeat > 0 || check.parallel > 0 {
            let counts = self.count(check, &target, limit).await;
            observation.insert("counts".into(), counts);
            return Value::Object(observation);
        }
        if let Some(raw) = &check.raw {
            let methods: Vec<&str> = check.methods.iter().map(String::as_str).collect();
            let methods = if methods.is_empty() {
                vec!["GET"]
            } else {
                methods
            };
            let seen = h1::exchange(target, raw.as_bytes(), &methods, limit).await;
            observation.insert(
                "answers".into(),
                seen.responses.iter().map(answer1).collect(),
            );
            observation.insert("end".into(), json!(end(&seen.end)));
        } else if let Some(bytes) = &check.tcp {
            self.tcp(check, &target, bytes, limit, &mut observation)
                .await;
        } else if !check.frames.is_empty() {
            let verdict = h2_raw::exchange(target, &frames(&check.frames), limit).await;
            observation.insert("verdict".into(), json!(told(&verdict)));
        } else {
            let answers = requests(check, &target, limit).await;
            observation.insert("answers".into(), Value::Array(answers));
        }
        let received = self.received();
        if !check.mask.iter().any(|masked| masked == "-backend") {
            observation.insert("backend".into(), received);
        }
        let mut observation = Value::Object(observation);
        mask(&mut observation, &check.mask, self.ip);
        observation
    }

    fn target(&self, check: &Check, port: u16) -> Target {
        Target {
            address: SocketAddr::from((self.ip, port)),
            tls: check.tls.as_ref().map(|tls| self.client(tls)),
            preface: check.preface.clone().into_bytes(),
        }
    }

    fn client(&self, tls: &Tls) -> (std::sync::Arc<rustls::ClientConfig>, String) {
        let alpn: Vec<&str> = tls.alpn.iter().map(String::as_str).collect();
        let leaf = self.leafs.get(tls.cert.as_str());
        let sni = match tls.sni.as_str() {
            "" => "oracle.test",
            sni => sni,
        };
        (Authority::client(leaf, &alpn), sni.to_owned())
    }

    /// Drops what the backends noted so far.
    pub fn take(&self) -> Vec<(&'static str, Vec<Received>)> {
        let taken = self.backends.iter();
        taken
            .map(|(name, backend)| (*name, backend.take(self.ip.into())))
            .collect()
    }

    /// What the backends received, in the order of their names.
    pub fn received(&self) -> Value {
        let all = self.take().into_iter();
        // Health checks come when they come.
        let is_check = |one: &Received| {
            let agent = one.field("user-agent").unwrap_or_default();
            one.target == "/healthz" && agent.to_ascii_lowercase().contains("/hc")
        };
        all.flat_map(|(name, list)| list.into_iter().map(move |one| (name, one)))
            .filter(|(_, one)| !is_check(one))
            .map(|(name, one)| received(name, &one))
            .collect()
    }

    async fn tcp(
        &self,
        check: &Check,
        target: &Target,
        bytes: &str,
        limit: Duration,
        observation: &mut Map<String, Value>,
    ) {
        let mut connection = match h1::Connection::open(target, limit).await {
            Ok(connection) => connection,
            Err(ended) => {
                observation.insert("end".into(), json!(end(&ended)));
                return;
            }
        };
        observation.insert("alpn".into(), json!(connection.alpn));
        let _ = connection
            .send(crate::check::filler(bytes).as_bytes())
            .await;
        if check.finish {
            connection.finish().await;
        }
        let (came, ended) = match check.expect {
            0 => connection.rest(limit).await,
            count => (connection.bytes(count, limit).await, End::Open),
        };
        observation.insert("came".into(), text(&came));
        observation.insert("end".into(), json!(end(&ended)));
    }

    async fn count(&self, check: &Check, target: &Target, limit: Duration) -> Value {
        let one = async |line: &String| {
            let request = Request::parse(line);
            match request.version {
                Version::Two => match over_h2(&request, target, limit).await {
                    Ok(answer) => status_or(answer.status, answer.reset.as_deref()),
                    Err(ended) => end(&ended),
                },
                _ => {
                    // How the connection ends does not count.
                    let answer = async {
                        let mut connection = h1::Connection::open(target, limit).await?;
                        let _ = connection.send(&close(&request)).await;
                        connection.answer(&request.method, limit).await
                    };
                    match answer.await {
                        Ok(answer) => status_or(answer.status, None),
                        Err(ended) => end(&ended),
                    }
                }
            }
        };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut add = |name: String| *counts.entry(name).or_default() += 1;
        let lines = check.lines();
        if check.parallel > 0 {
            let lines = lines.iter().cycle().take(check.parallel);
            for status in join_all(lines.map(one)).await {
                add(status);
            }
        } else {
            for line in lines.iter().cycle().take(check.repeat) {
                add(one(line).await);
            }
        }
        if check.mask.iter().any(|masked| masked == "backend") {
            return json!(counts);
        }
        for one in self.received().as_array().into_iter().flatten() {
            add(format!(
                "backend {}",
                one["backend"].as_str().unwrap_or_default()
            ));
        }
        json!(counts)
    }
}

/// Which way an ill-formed message is refused is each proxy's own: Envoy ends the connection, osm-proxy the stream
/// where it can, either may answer 400.
fn told(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Status(Some(400)) | Verdict::Reset(_) | Verdict::GoAway(_) => "refused".into(),
        Verdict::End(End::Closed | End::Reset) => "refused".into(),
        Verdict::Status(Some(status)) => format!("status {status}"),
        other => format!("{other:?}"),
    }
}

fn status_or(status: u16, reset: Option<&str>) -> String {
    reset.map_or_else(|| format!("status {status}"), str::to_owned)
}

/// The request, on a connection that ends with it.
fn close(request: &Request) -> Vec<u8> {
    let mut request = request.clone();
    request.fields.push(("Connection".into(), "close".into()));
    request.bytes()
}

async fn over_h2(request: &Request, target: &Target, limit: Duration) -> Result<h2::Answer, End> {
    let Ok(head) = request.http() else {
        return Err(End::Alert("no such request over HTTP/2".into()));
    };
    h2::request(target.clone(), head, &request.body, None, limit).await
}

/// Requests one after the other; on one connection if the check keeps it.
async fn requests(check: &Check, target: &Target, limit: Duration) -> Vec<Value> {
    let mut answers = Vec::new();
    let mut kept: Option<h1::Connection> = None;
    for (index, line) in check.lines().iter().enumerate() {
        if index > 0 && check.pause > 0 {
            tokio::time::sleep(Duration::from_millis(check.pause)).await;
        }
        let request = Request::parse(line);
        if request.version == Version::Two {
            answers.push(match over_h2(&request, target, limit).await {
                Ok(answer) => answer2(&answer),
                Err(ended) => json!({"end": end(&ended)}),
            });
            continue;
        }
        let connection = match kept.take() {
            Some(connection) => Ok(connection),
            None => h1::Connection::open(target, limit).await,
        };
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(ended) => {
                answers.push(json!({"end": end(&ended)}));
                continue;
            }
        };
        let _ = connection.send(&request.bytes()).await;
        let answer = match connection.answer(&request.method, limit).await {
            Ok(answer) => answer,
            Err(ended) => {
                answers.push(json!({"end": end(&ended)}));
                continue;
            }
        };
        let mut seen = answer1(&answer);
        let last = index + 1 == check.lines().len();
        if check.keep && !last {
            kept = Some(connection);
        } else {
            seen["end"] = json!(end(&connection.end_after(Some(&answer), limit).await));
        }
        answers.push(seen);
    }
    answers
}

pub fn answer1(answer: &h1::Answer) -> Value {
    let mut seen = json!({
        // Without the reason phrase: it means nothing.
        "version": answer.version,
        "status": answer.status,
        "fields": sorted(&answer.fields),
        "body": text(&answer.body),
    });
    if !answer.trailers.is_empty() {
        seen["trailers"] = json!(sorted(&answer.trailers));
    }
    if !answer.is_complete {
        seen["is_cut"] = json!(true);
    }
    if !answer.interim.is_empty() {
        seen["interim"] = json!(answer.interim);
    }
    seen
}

pub fn answer2(answer: &h2::Answer) -> Value {
    let mut seen = json!({
        "status": answer.status,
        "fields": sorted(&answer.fields),
        "body": text(&answer.body),
    });
    if let Some(trailers) = &answer.trailers {
        seen["trailers"] = json!(sorted(trailers));
    }
    if let Some(reset) = &answer.reset {
        seen["reset"] = json!(reset);
    }
    seen
}

fn received(backend: &str, one: &Received) -> Value {
    let mut seen = json!({
        "backend": backend,
        "start": format!("{} {} {}", one.method, one.target, one.version),
        "fields": sorted(&one.fields),
        "body": text(&one.body),
    });
    if let Some(authority) = &one.authority {
        seen["authority"] = json!(authority);
    }
    if !one.trailers.is_empty() {
        seen["trailers"] = json!(sorted(&one.trailers));
    }
    if !one.is_complete {
        seen["is_cut"] = json!(true);
    }
    if let Some(tls) = &one.tls {
        seen["tls"] = json!([tls.sni, tls.alpn, tls.has_certificate]);
    }
    seen
}

/// Lines `name: value`; the order of different names means nothing, that of one name's values does.
fn sorted(fields: &Fields) -> Vec<String> {
    let mut lines: Vec<(String, &str)> = fields
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str()))
        .collect();
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    lines
        .into_iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect()
}

fn text(bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    if bytes.len() <= SHOWN {
        return json!(text);
    }
    let start: String = text.chars().take(20).collect();
    json!(format!("{} bytes: {start}…", bytes.len()))
}

fn end(end: &End) -> String {
    match end {
        End::Open => "open".into(),
        End::Closed => "closed".into(),
        End::Reset => "reset".into(),
        End::Alert(alert) => format!("alert {alert}"),
    }
}

/// The bytes of frames.
fn frames(list: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in list {
        let stream = frame.stream.unwrap_or(1);
        if let Some(lines) = &frame.headers {
            let pairs: Vec<(&str, String)> = lines
                .iter()
                .map(|line| {
                    let at = line[1..].find(':').map_or(line.len(), |at| at + 1);
                    let value = line.get(at + 1..).unwrap_or_default().trim();
                    (&line[..at], crate::check::filler(value))
                })
                .collect();
            let pairs: Vec<(&str, &str)> = pairs
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            bytes.extend(h2_raw::headers(stream, &pairs, frame.end));
        } else if let Some(data) = &frame.data {
            let data = crate::check::filler(data);
            bytes.extend(h2_raw::data(stream, data.as_bytes(), frame.end));
        } else if let Some((kind, flags, payload)) = &frame.other {
            bytes.extend(h2_raw::frame(*kind, *flags, stream, payload));
        }
    }
    bytes
}

/// Whether a header is not to be looked at, be it there or not: `-name` in the check's mask.
fn is_dropped(item: &Value, more: &[String]) -> bool {
    let name = item.as_str().and_then(|line| line.split_once(": "));
    name.is_some_and(|(name, _)| {
        let mut dropped = more.iter().filter_map(|masked| masked.strip_prefix('-'));
        dropped.any(|dropped| dropped == name)
    })
}

/// Replaces values that differ from run to run, and the proxies' addresses.
pub fn mask(value: &mut Value, more: &[String], ip: Ipv4Addr) {
    match value {
        Value::String(text) => {
            if text.contains(&ip.to_string()) {
                *text = text.replace(&ip.to_string(), "127.0.0.x");
            }
            if let Some(millis) = text.strip_prefix("x-envoy-expected-rq-timeout-ms: ") {
                // What is left of the time for another attempt: not to the millisecond.
                let millis: u64 = millis.parse().unwrap_or_default();
                *text = format!(
                    "x-envoy-expected-rq-timeout-ms: {}",
                    millis.div_ceil(100) * 100
                );
            }
            if let Some((name, _)) = text.split_once(": ")
                && (MASKED.contains(&name) || more.iter().any(|masked| masked == name))
            {
                *text = format!("{name}: *");
            }
        }
        Value::Array(list) => {
            list.retain(|item| !is_dropped(item, more));
            list.iter_mut().for_each(|item| mask(item, more, ip));
        }
        Value::Object(map) => {
            if let Some(end) = map.get_mut("end")
                && *end == "reset"
                && more.iter().any(|masked| masked == "reset")
            {
                *end = json!("closed");
            }
            map.values_mut().for_each(|item| mask(item, more, ip));
        }
        _ => {}
    }
}
