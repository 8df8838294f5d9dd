//! `osm-apps bookbuyer` and `osm-apps bookthief`: they buy a book in each round, one as a customer, one without the right to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::client::Client;
use super::tally::{BUY, Call, Streak, Tally, Thresholds, Verdict};
use super::{FAILURE, PORT, SUCCESS, page};
use crate::http::{listen, serve};

/// `osm-apps bookbuyer`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Port of the pages / /raw /last /reset
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// What the page calls it
    #[arg(long, env = "IDENTITY", default_value = "bookbuyer")]
    identity: String,
    #[command(flatten)]
    round: Round,
}

/// `osm-apps bookthief`.
#[derive(Args, Clone, Debug)]
pub struct ThiefOptions {
    /// Port of the pages / /raw /last /reset
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// What the page calls it
    #[arg(long, env = "IDENTITY", default_value = "bookthief")]
    identity: String,
    /// Status that a thief must expect; 0 for a refused connection
    #[arg(long, env = "BOOKTHIEF_EXPECTED_RESPONSE_CODE", default_value_t = 0)]
    expected: u16,
    #[command(flatten)]
    round: Round,
}

/// What a round is, and how often.
#[derive(Args, Clone, Debug)]
struct Round {
    /// Service of the bookstore
    #[arg(long, env = "BOOKSTORE_SVC", default_value = "bookstore")]
    bookstore: String,
    /// Namespace of the bookstore
    #[arg(long, env = "BOOKSTORE_NAMESPACE", default_value = "bookstore")]
    bookstore_namespace: String,
    /// Host and port of the bookstore, instead of its Service
    #[arg(long)]
    bookstore_address: Option<String>,
    /// Seconds from the start of a round to the start of the next
    #[arg(long, env = "CI_SLEEP_BETWEEN_REQUESTS_SECONDS", default_value_t = 1.0)]
    interval: f64,
    /// Good rounds in a row before success is printed
    #[arg(long, env = "CI_MIN_SUCCESS_THRESHOLD", default_value_t = 1)]
    min_success: u64,
    /// Rounds before failure is printed; 0 for no limit
    #[arg(long, env = "CI_MAX_ITERATIONS_THRESHOLD", default_value_t = 0)]
    max_rounds: u64,
    /// Buyers side by side
    #[arg(long, env = "CI_CLIENT_CONCURRENT_CONNECTIONS", default_value_t = 1)]
    connections: u16,
    /// Also call a host outside the mesh in each round, by http and by https
    #[arg(long, env = "ENABLE_EGRESS", default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    egress: bool,
    /// The hosts outside
    #[arg(
        long = "egress-host",
        env = "EGRESS_HOSTS",
        value_delimiter = ',',
        default_values_t = ["edition.cnn.com".to_owned(), "github.com".to_owned()]
    )]
    egress_hosts: Vec<String>,
}

/// Who a program is.
struct Participant {
    /// `bookbuyer` or `bookthief`.
    name: &'static str,
    /// What the page calls it.
    identity: String,
    /// First word of the counters on `/raw`.
    books: &'static str,
    /// Status expected of the bookstore.
    expected: u16,
    round: Round,
    client: Client,
    tally: Mutex<Tally>,
}

/// Buys books until the process ends.
pub async fn buy(options: Options) -> anyhow::Result<()> {
    Participant {
        name: "bookbuyer",
        identity: options.identity,
        books: "booksBought",
        expected: 200,
        round: options.round,
        client: Client::new()?,
        tally: Mutex::default(),
    }
    .run(options.port)
    .await
}

/// Tries to steal books until the process ends.
pub async fn steal(options: ThiefOptions) -> anyhow::Result<()> {
    Participant {
        name: "bookthief",
        identity: options.identity,
        books: "booksStolen",
        expected: options.expected,
        round: options.round,
        client: Client::new()?,
        tally: Mutex::default(),
    }
    .run(options.port)
    .await
}

// === impl Participant ===

impl Participant {
    async fn run(self, port: u16) -> anyhow::Result<()> {
        let interval = self.round.interval()?;
        let listener = listen(port).await?;
        println!("{} on port {}", self.name, listener.local_addr()?.port());
        let this = Arc::new(self);
        let mut work = JoinSet::new();
        for _ in 0..this.round.connections.max(1) {
            work.spawn(this.clone().rounds(interval));
        }
        work.spawn(serve(listener, None, move |request, _| {
            let page = this.page(&request);
            async move { page }
        }));
        match work.join_next().await {
            Some(ended) => ended?,
            None => Ok(()),
        }
    }

    async fn rounds(self: Arc<Self>, interval: Duration) -> anyhow::Result<()> {
        let thresholds = Thresholds {
            min_success: self.round.min_success,
            max_rounds: self.round.max_rounds,
        };
        let mut streak = Streak::default();
        for number in 0.. {
            let next = Instant::now() + interval;
            println!("--- {}:[ {} ] ---", self.name, number + 1);
            let calls = self.round(number).await;
            self.tally().count(&calls);
            match streak.judge(&calls, thresholds) {
                Verdict::Success => println!("{SUCCESS}"),
                Verdict::Failure => println!("{FAILURE}"),
                Verdict::Undecided => {}
            }
            sleep_until(next).await;
        }
        Ok(())
    }

    async fn round(&self, number: usize) -> Vec<Call> {
        let mut calls = Vec::new();
        for (name, url, expected) in self.round.requests(number, self.expected) {
            let headers: &[_] = match name {
                // The HTTPRouteGroup of the demo asks for it.
                "books-bought" => &[("client-app", "bookbuyer")],
                // Whether the way out is open shows on new connections: an opaque one that is there may go on for a while.
                "http" | "https" => &[("connection", "close")],
                _ => &[],
            };
            let answer = self.client.get(&url, headers).await;
            println!("{url}: {answer}");
            if answer.status != expected {
                println!(
                    "ERROR: response code for {url:?} is {};  expected {expected}",
                    answer.status
                );
            }
            calls.push(Call {
                name,
                expected,
                answer,
            });
        }
        calls
    }

    fn page(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => self.index(),
            (&Method::GET, "/raw") => page::json(&self.tally().raw(self.books)),
            (&Method::GET, "/last") => page::json(&self.tally().last()),
            (&Method::GET, "/reset") => {
                self.tally().reset();
                self.index()
            }
            _ => page::missing(),
        }
    }

    fn index(&self) -> Response<Full<Bytes>> {
        let (v1, v2, all) = self.tally().books();
        let done = if self.books == "booksBought" {
            "bought"
        } else {
            "stolen"
        };
        let lines = [
            ("bookstore v1", v1.to_string()),
            ("bookstore v2", v2.to_string()),
            ("all", all.to_string()),
        ];
        page::html(&format!("{}: books {done}", self.identity), &lines)
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        // Counting does not panic; and what was counted before stays true.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Round ===

impl Round {
    fn interval(&self) -> anyhow::Result<Duration> {
        ensure!(
            self.interval.is_finite() && (0.001..=3600.0).contains(&self.interval),
            "CI_SLEEP_BETWEEN_REQUESTS_SECONDS={}: must be between 0.001 and 3600",
            self.interval
        );
        Ok(Duration::from_secs_f64(self.interval))
    }

    /// Names, URLs and expected statuses of a round's requests.
    fn requests(&self, number: usize, expected: u16) -> Vec<(&'static str, String, u16)> {
        let store = self
            .bookstore_address
            .clone()
            .unwrap_or_else(|| format!("{}.{}:{PORT}", self.bookstore, self.bookstore_namespace));
        let mut requests = vec![
            (
                "books-bought",
                format!("http://{store}/books-bought"),
                expected,
            ),
            (BUY, format!("http://{store}/buy-a-book/new"), expected),
        ];
        let hosts = self.egress_hosts.len().max(1);
        if let (true, Some(host)) = (self.egress, self.egress_hosts.get(number % hosts)) {
            requests.push(("http", format!("http://{host}"), 200));
            requests.push(("https", format!("https://{host}"), 200));
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Buyer {
        #[command(flatten)]
        options: Options,
    }

    fn round(words: &[&str]) -> Round {
        let words = ["bookbuyer"].iter().chain(words);
        Buyer::try_parse_from(words)
            .expect("arguments")
            .options
            .round
    }

    #[test]
    fn a_round_asks_for_the_count_then_buys_and_goes_outside_only_when_told() {
        let plain: Vec<_> = round(&["--bookstore-namespace", "shop"]).requests(0, 200);
        assert_eq!(
            plain,
            [
                (
                    "books-bought",
                    "http://bookstore.shop:14001/books-bought".to_owned(),
                    200
                ),
                (
                    "buy-a-book",
                    "http://bookstore.shop:14001/buy-a-book/new".to_owned(),
                    200
                )
            ]
        );
        let outside = round(&["--egress", "--egress-host=a.org,b.org"]);
        let url = |number: usize| outside.requests(number, 0)[3].1.clone();
        assert_eq!(
            [url(0), url(1), url(2)],
            ["https://a.org", "https://b.org", "https://a.org"]
        );
    }

    #[test]
    fn an_interval_must_be_one() {
        for (text, good) in [
            ("0.1", true),
            ("1", true),
            ("0", false),
            ("-1", false),
            ("inf", false),
            ("NaN", false),
        ] {
            let interval = round(&[&format!("--interval={text}")]).interval();
            assert_eq!(interval.is_ok(), good, "{text}");
        }
    }
}
