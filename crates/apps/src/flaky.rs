//! An HTTP server that fails, or is slow, by rule: what retries and circuit breakers are tried on.
//!
//! `/every/N/STATUS` fails each Nth request, `/first/N/STATUS` the first N, `/late/N/MILLISECONDS` delays each Nth;
//! `/seen/PATH` tells how many requests a path has had. Anything else is answered with 200.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::http::{listen, serve};

/// `osm-apps flaky`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Port of the server
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
}

/// Paths that are counted; requests for more are answered with 200 and not counted.
const MAX_PATHS: usize = 1024;

/// The longest delay.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// Requests by path.
type Seen = Arc<Mutex<HashMap<String, u64>>>;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
struct Fate {
    status: u16,
    delay: Duration,
}

/// Serves on a port, in clear text.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let listener = listen(options.port).await?;
    println!("flaky on port {}", options.port);
    let seen = Seen::default();
    serve(listener, None, move |request, _| {
        let seen = seen.clone();
        async move {
            let path = request.uri().path();
            if let Some(path) = path.strip_prefix("/seen") {
                return text(200, count(&seen, path, 0).to_string());
            }
            let number = count(&seen, path, 1);
            let fate = fate(path, number);
            tokio::time::sleep(fate.delay).await;
            text(fate.status, format!("request {number}\n"))
        }
    })
    .await
}

/// Requests for a path, with so many more.
fn count(seen: &Seen, path: &str, more: u64) -> u64 {
    let Ok(mut seen) = seen.lock() else {
        return 0;
    };
    if let Some(number) = seen.get_mut(path) {
        *number += more;
        return *number;
    }
    if more > 0 && seen.len() < MAX_PATHS {
        seen.insert(path.to_owned(), more);
    }
    more
}

fn fate(path: &str, number: u64) -> Fate {
    let good = Fate {
        status: 200,
        delay: Duration::ZERO,
    };
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let [kind, every, what, ..] = words.as_slice() else {
        return good;
    };
    let (Ok(every), Ok(what)) = (every.parse::<u64>(), what.parse::<u16>()) else {
        return good;
    };
    let status = |is_bad| Fate {
        status: if is_bad { what } else { 200 },
        ..good
    };
    match *kind {
        "every" => status(every > 0 && number.is_multiple_of(every)),
        "first" => status(number <= every),
        "late" if every > 0 && number.is_multiple_of(every) => Fate {
            delay: Duration::from_millis(what.into()).min(MAX_DELAY),
            ..good
        },
        _ => good,
    }
}

fn text(status: u16, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_in_the_path() {
        let status = |path: &str, number| fate(path, number).status;
        assert_eq!(
            (status("/every/5/511", 4), status("/every/5/511", 5)),
            (200, 511)
        );
        assert_eq!(
            (status("/first/2/503", 2), status("/first/2/503/x", 3)),
            (503, 200)
        );
        assert_eq!(fate("/late/5/200", 10).delay, Duration::from_millis(200));
        for path in ["/", "/every/0/500", "/late/0/1", "/every/x/500", "/get"] {
            assert_eq!(
                fate(path, 1),
                Fate {
                    status: 200,
                    delay: Duration::ZERO
                },
                "{path}"
            );
        }
    }

    #[test]
    fn requests_are_counted_by_path() {
        let seen = Seen::default();
        assert_eq!(count(&seen, "/a", 1), 1);
        assert_eq!(count(&seen, "/a", 1), 2);
        assert_eq!((count(&seen, "/a", 0), count(&seen, "/b", 0)), (2, 0));
    }
}
