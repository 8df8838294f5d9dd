//! Random route tables and requests, from a seed; what differs is reduced to a setup that can be pasted.

mod requests;
mod tables;

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use serde_json::{Value, json};
use testkit::client::{Target, h1, h2};
use testkit::ports;

use crate::check::{Request, Version};
use crate::setup::Setup;
use crate::world::{ENVOY, OSM, World};
use crate::{compare, run};

/// Requests per route table.
const BATCH: usize = 250;
const LIMIT: Duration = Duration::from_secs(10);
/// Tries at making a failing table smaller.
const REDUCTIONS: usize = 120;
/// Failures after which a run ends.
const FAILURES: usize = 5;

/// What the generator did.
pub struct Generated {
    seed: u64,
    requests: usize,
    tables: usize,
    seconds: f64,
    /// Answers by status.
    statuses: std::collections::BTreeMap<u64, usize>,
    /// Differences, each with the setup that shows it.
    pub failures: Vec<String>,
}

/// A small generator of random numbers (xorshift*): the same everywhere, whatever crate changes.
pub struct Dice(u64);

/// One table and what differs under it.
struct Batch {
    vhosts: Value,
    lines: Vec<String>,
}

/// Runs until so many requests went through both, or something differs.
pub async fn run(world: &mut World, seed: u64, requests: usize) -> anyhow::Result<Generated> {
    println!("oracle: generator with --seed {seed}");
    let start = Instant::now();
    let port = ports::free();
    let mut generated = Generated {
        seed,
        requests: 0,
        tables: 0,
        seconds: 0.0,
        statuses: Default::default(),
        failures: Vec::new(),
    };
    let mut dice = Dice::new(seed);
    while generated.requests < requests {
        let batch = Batch {
            vhosts: tables::vhosts(&mut dice),
            lines: (0..BATCH).map(|_| requests::line(&mut dice)).collect(),
        };
        generated.tables += 1;
        let mut lanes = apply(world, port, &batch.vhosts, generated.tables).await?;
        for line in &batch.lines {
            let [one, other] = ask(world, &mut lanes, line).await;
            generated.requests += 1;
            let status = one["status"].as_u64().unwrap_or_default();
            *generated.statuses.entry(status).or_default() += 1;
            let places = compare::differences(&one, &other);
            if !places.is_empty() {
                let places = places.join("\n");
                // The rest of this table would likely say the same again.
                let small = reduce(
                    world,
                    port,
                    batch.vhosts.clone(),
                    line,
                    &mut generated.tables,
                )
                .await;
                let setup =
                    json!([{"name": format!("seed-{seed}"), "vhosts": small, "checks": [line]}]);
                generated.failures.push(format!("{places}\n{setup}"));
                break;
            }
        }
        if generated.failures.len() >= FAILURES {
            break;
        }
    }
    generated.seconds = start.elapsed().as_secs_f64();
    Ok(generated)
}

/// A connection of each version to one proxy.
struct Lane {
    target: Target,
    h1: Option<h1::Connection>,
    h2: Option<h2::Connection>,
}

/// Gives both proxies the table and waits until they route by it.
async fn apply(
    world: &mut World,
    port: u16,
    vhosts: &Value,
    number: usize,
) -> anyhow::Result<[Lane; 2]> {
    // The mark: a host nobody asks for, answered with the table's number.
    let mark = json!({"name": "mark", "domains": ["mark.oracle"], "routes": [
        {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": number.to_string()}}}]});
    let mut all = vhosts.as_array().cloned().unwrap_or_default();
    all.push(mark);
    let setup = Setup::generated("generator", port, Value::Array(all));
    let refused = world.push(&[&setup]).await;
    for (node, refused) in refused {
        if let Some(words) = refused.get("generator") {
            bail!("{node} refuses a generated table: {words}\n{vhosts}");
        }
    }
    let lanes = [ENVOY, OSM].map(|(_, ip)| Lane {
        target: Target::from(std::net::SocketAddr::from((ip, port))),
        h1: None,
        h2: None,
    });
    for lane in &lanes {
        let end = Instant::now() + LIMIT;
        loop {
            let get = b"GET / HTTP/1.1\r\nHost: mark.oracle\r\nConnection: close\r\n\r\n";
            let seen = h1::exchange(lane.target.clone(), get, &["GET"], LIMIT).await;
            let body = seen.responses.first().map(h1::Answer::text);
            if body == Some(number.to_string()) {
                break;
            }
            ensure!(
                Instant::now() < end,
                "{:?} does not take up table {number}",
                lane.target
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(lanes)
}

/// Sends a request through both.
async fn ask(world: &World, lanes: &mut [Lane; 2], line: &str) -> [Value; 2] {
    let [one, other] = lanes;
    let (one, other) = tokio::join!(one.ask(world, ENVOY.1, line), other.ask(world, OSM.1, line));
    [one, other]
}

// === impl Lane ===

impl Lane {
    async fn ask(&mut self, world: &World, ip: std::net::Ipv4Addr, line: &str) -> Value {
        let side = world.side(ip);
        side.take();
        let request = Request::parse(line);
        let mut seen = match request.version {
            Version::Two => self.over_h2(&request).await,
            _ => self.over_h1(&request).await,
        };
        seen["backend"] = side.received();
        // A listed difference: Envoy ends the connection after a local reply to a request with a body, osm-proxy reads the body.
        if !request.body.is_empty()
            && let Some(fields) = seen["fields"].as_array_mut()
        {
            fields.retain(|line| line != "connection: close");
        }
        run::mask(&mut seen, &[], ip);
        seen
    }

    async fn over_h1(&mut self, request: &Request) -> Value {
        let connection = match self.h1.take() {
            Some(connection) => Ok(connection),
            None => h1::Connection::open(&self.target, LIMIT).await,
        };
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(end) => return json!({"end": format!("{end:?}")}),
        };
        let _ = connection.send(&request.bytes()).await;
        match connection.answer(&request.method, LIMIT).await {
            Err(end) => json!({"end": format!("{end:?}")}),
            Ok(answer) => {
                let closes = answer
                    .field("connection")
                    .is_some_and(|value| value == "close");
                if !closes && answer.version == "HTTP/1.1" {
                    self.h1 = Some(connection);
                }
                run::answer1(&answer)
            }
        }
    }

    async fn over_h2(&mut self, request: &Request) -> Value {
        let Ok(head) = request.http() else {
            return json!({});
        };
        let connection = match self.h2.take() {
            Some(connection) => Ok(connection),
            None => h2::Connection::open(&self.target, LIMIT).await,
        };
        match connection {
            Err(end) => json!({"end": format!("{end:?}")}),
            Ok(mut connection) => {
                let answer = connection.request(head, &request.body, None, LIMIT).await;
                if answer.reset.is_none() {
                    self.h2 = Some(connection);
                }
                run::answer2(&answer)
            }
        }
    }
}

/// Leaves out virtual hosts, routes and fields as long as the request still shows a difference.
async fn reduce(
    world: &mut World,
    port: u16,
    vhosts: Value,
    line: &str,
    tables: &mut usize,
) -> Value {
    let mut small = vhosts;
    let mut tries = 0;
    loop {
        let mut progressed = false;
        for candidate in smaller(&small) {
            tries += 1;
            if tries > REDUCTIONS {
                return small;
            }
            *tables += 1;
            let Ok(mut lanes) = apply(world, port, &candidate, *tables).await else {
                continue;
            };
            let [one, other] = ask(world, &mut lanes, line).await;
            if !compare::differences(&one, &other).is_empty() {
                small = candidate;
                progressed = true;
                break;
            }
        }
        if !progressed {
            return small;
        }
    }
}

/// The table with one virtual host, route or optional field less, big parts first.
fn smaller(vhosts: &Value) -> Vec<Value> {
    let mut candidates = Vec::new();
    let list = vhosts.as_array().cloned().unwrap_or_default();
    for index in 0..list.len() {
        let mut less = list.clone();
        less.remove(index);
        candidates.push(Value::Array(less));
    }
    for (index, vhost) in list.iter().enumerate() {
        let routes = vhost["routes"].as_array().map_or(0, Vec::len);
        for route in 0..routes {
            let mut less = vhosts.clone();
            if let Some(routes) = less[index]["routes"].as_array_mut() {
                routes.remove(route);
            }
            candidates.push(less);
        }
    }
    for (index, vhost) in list.iter().enumerate() {
        for key in vhost.as_object().into_iter().flat_map(|map| map.keys()) {
            if !["name", "domains", "routes"].contains(&key.as_str()) {
                let mut less = vhosts.clone();
                less[index].as_object_mut().map(|map| map.remove(key));
                candidates.push(less);
            }
        }
        for (at, route) in vhost["routes"].as_array().into_iter().flatten().enumerate() {
            for (part, fixed) in [("match", 1), ("route", 1), ("redirect", 1), ("", 2)] {
                let object = match part {
                    "" => route,
                    part => &route[part],
                };
                let keys: Vec<String> = object
                    .as_object()
                    .into_iter()
                    .flat_map(|map| map.keys().cloned())
                    .collect();
                if keys.len() <= fixed {
                    continue;
                }
                for key in keys {
                    let mut less = vhosts.clone();
                    let route = &mut less[index]["routes"][at];
                    let object = match part {
                        "" => route,
                        part => &mut route[part],
                    };
                    object.as_object_mut().map(|map| map.remove(&key));
                    candidates.push(less);
                }
            }
        }
    }
    candidates
}

// === impl Dice ===

impl Dice {
    /// Zero would stay zero.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let roll = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(roll).unwrap_or_default() % bound
    }

    /// True so many times of a hundred.
    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    /// One of a list.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

// === impl Generated ===

impl Generated {
    /// For the terminal.
    pub fn text(&self) -> String {
        let outcome = match self.failures.len() {
            0 => "all the same".to_owned(),
            count => format!("{count} DIFFER:\n{}", self.failures.join("\n")),
        };
        format!(
            "oracle: generator --seed {}: {} requests, {} tables in {:.0} s, by status {:?}: {outcome}\n",
            self.seed, self.requests, self.tables, self.seconds, self.statuses
        )
    }

    /// For machines.
    pub fn json(&self) -> Value {
        json!({
            "seed": self.seed,
            "requests": self.requests,
            "tables": self.tables,
            "seconds": self.seconds,
            "statuses": self.statuses.iter().map(|(k, v)| (k.to_string(), json!(v))).collect::<serde_json::Map<_, _>>(),
            "failures": self.failures,
        })
    }
}
