//! The pages of httpbin that the demos and scenarios ask for.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::http::{Origin, listen, serve};

/// `osm-apps httpbin`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Port of the server
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
}

/// What the server calls itself, as httpbin.org does.
const SERVER: &str = "gunicorn/19.9.0";

/// The largest body that is echoed.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// The longest delay that `/delay/N` grants.
const MAX_DELAY: f64 = 10.0;

/// Environment variables with this prefix become response headers, `XHTTPBIN_podname=a` for `podname: a`.
const HEADER_VARIABLE: &str = "XHTTPBIN_";

/// Serves the pages on a port, in clear text.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let listener = listen(options.port).await?;
    println!("httpbin on port {}", options.port);
    let extra = headers_from_environment();
    serve(listener, None, move |request, origin| {
        let extra = extra.clone();
        async move {
            let mut response = answer(request, origin).await;
            response.headers_mut().extend(extra);
            response
        }
    })
    .await
}

/// The headers that tell which pod answered.
fn headers_from_environment() -> HeaderMap {
    let hostname = std::env::var("HOSTNAME")
        .ok()
        .map(|name| ("podname".to_owned(), name));
    let variables = std::env::vars()
        .filter_map(|(key, value)| Some((key.strip_prefix(HEADER_VARIABLE)?.to_owned(), value)));
    let mut headers = HeaderMap::new();
    for (name, value) in hostname.into_iter().chain(variables) {
        if let (Ok(name), Ok(value)) = (
            name.to_lowercase().parse::<HeaderName>(),
            HeaderValue::from_str(&value),
        ) {
            // What the pod's author says counts more than the host's name.
            headers.insert(name, value);
        }
    }
    headers
}

/// The answer to one request.
pub async fn answer(request: Request<Incoming>, origin: Origin) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let echo = Echo::new(&parts, origin);
    let path = parts.uri.path();
    let word = |prefix: &str| path.strip_prefix(prefix).map(str::to_owned);
    let mut response = match path {
        "/get" => only(&parts.method, &[Method::GET], || {
            json_answer(&echo.page(&["args", "headers", "origin", "url"]))
        }),
        "/headers" => only(&parts.method, &[Method::GET], || {
            json_answer(&echo.page(&["headers"]))
        }),
        "/ip" => only(&parts.method, &[Method::GET], || {
            json_answer(&echo.page(&["origin"]))
        }),
        "/user-agent" => only(&parts.method, &[Method::GET], || {
            json_answer(&echo.user_agent())
        }),
        "/" => only(&parts.method, &[Method::GET], || {
            text_answer(StatusCode::OK, "text/html; charset=utf-8", PAGE)
        }),
        "/post" | "/put" | "/patch" | "/delete" => {
            let method = path.trim_start_matches('/').to_uppercase();
            if parts.method.as_str() == method {
                echo.with_body(body).await
            } else {
                not_allowed(&method)
            }
        }
        _ if path == "/anything" || path.starts_with("/anything/") => echo.with_body(body).await,
        _ => match (word("/status/"), word("/delay/")) {
            (Some(code), _) => status(&code),
            (_, Some(seconds)) => delay(&seconds, &echo).await,
            _ => text_answer(
                StatusCode::NOT_FOUND,
                "text/html; charset=utf-8",
                "<h1>Not Found</h1>\n",
            ),
        },
    };
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
    response
}

const PAGE: &str = "<!DOCTYPE html>\n<title>httpbin</title>\n<p>/get /headers /ip /status/N /anything /delay/N</p>\n";

/// What a request looked like.
struct Echo {
    fields: Map<String, Value>,
}

// === impl Echo ===

impl Echo {
    fn new(parts: &http::request::Parts, origin: Origin) -> Self {
        let host = parts
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .or_else(|| parts.uri.authority().map(|authority| authority.as_str()))
            .unwrap_or_default();
        let mut headers: Map<String, Value> = Map::new();
        headers.insert("Host".into(), host.into());
        for (name, value) in &parts.headers {
            headers.insert(
                title_case(name.as_str()),
                String::from_utf8_lossy(value.as_bytes()).into(),
            );
        }
        let target = parts
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let args: Map<String, Value> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(argument)
            .collect();
        let fields = json!({
            "args": args,
            "headers": headers,
            "method": parts.method.as_str(),
            "origin": origin.address.to_string(),
            "url": format!("{}://{host}{target}", origin.scheme),
        });
        let Value::Object(fields) = fields else {
            unreachable!("built as an object above")
        };
        Self { fields }
    }

    fn page(&self, names: &[&str]) -> Value {
        self.fields
            .iter()
            .filter(|(name, _)| names.contains(&name.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    fn user_agent(&self) -> Value {
        json!({ "user-agent": self.fields.get("headers").and_then(|headers| headers.get("User-Agent")) })
    }

    async fn with_body(&self, body: Incoming) -> Response<Full<Bytes>> {
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return text_answer(
                StatusCode::PAYLOAD_TOO_LARGE,
                "text/plain",
                "the body is too large, or it broke off\n",
            );
        };
        let mut fields = self.fields.clone();
        let data = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        fields.insert(
            "json".into(),
            serde_json::from_str(&data).unwrap_or(Value::Null),
        );
        fields.insert("data".into(), data.into());
        json_answer(&Value::Object(fields))
    }
}

fn argument(pair: &str) -> (String, Value) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (name.to_owned(), value.into())
}

/// `user-agent` as `User-Agent`, the way httpbin shows names.
fn title_case(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters
            .next()
            .map(|first| first.to_uppercase().chain(letters).collect::<String>())
            .unwrap_or_default()
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

fn only(
    method: &Method,
    allowed: &[Method],
    page: impl FnOnce() -> Response<Full<Bytes>>,
) -> Response<Full<Bytes>> {
    // Whoever answers GET answers HEAD: the upstream suites probe with HEAD.
    if allowed.contains(method) || (method == Method::HEAD && allowed.contains(&Method::GET)) {
        page()
    } else {
        not_allowed(
            &allowed
                .iter()
                .map(Method::as_str)
                .collect::<Vec<_>>()
                .join(", "),
        )
    }
}

fn not_allowed(allowed: &str) -> Response<Full<Bytes>> {
    let mut response = text_answer(
        StatusCode::METHOD_NOT_ALLOWED,
        "text/html; charset=utf-8",
        "<h1>Method Not Allowed</h1>\n",
    );
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

fn status(code: &str) -> Response<Full<Bytes>> {
    match code
        .parse()
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|code| code.as_u16() >= 200)
    {
        Some(code) => text_answer(code, "text/html; charset=utf-8", ""),
        None => text_answer(
            StatusCode::BAD_REQUEST,
            "text/html; charset=utf-8",
            "Invalid status code",
        ),
    }
}

async fn delay(seconds: &str, echo: &Echo) -> Response<Full<Bytes>> {
    match seconds.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => {
            tokio::time::sleep(Duration::from_secs_f64(seconds.min(MAX_DELAY))).await;
            json_answer(&echo.page(&["args", "headers", "origin", "url"]))
        }
        _ => text_answer(
            StatusCode::BAD_REQUEST,
            "text/html; charset=utf-8",
            "Invalid delay",
        ),
    }
}

fn json_answer(page: &Value) -> Response<Full<Bytes>> {
    let mut text = serde_json::to_string_pretty(page).unwrap_or_default();
    text.push('\n');
    with_type("application/json", Bytes::from(text))
}

/// An answer with a text.
pub fn text_answer(
    status: StatusCode,
    kind: &'static str,
    text: &'static str,
) -> Response<Full<Bytes>> {
    let mut response = with_type(kind, Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response
}

fn with_type(kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_headers_are_shown_as_httpbin_shows_them() {
        assert_eq!(title_case("x-forwarded-for"), "X-Forwarded-For");
        assert_eq!(title_case("accept"), "Accept");
        assert_eq!(title_case(""), "");
    }

    #[test]
    fn status_pages_take_any_final_code_and_refuse_the_rest() {
        for (code, expected) in [
            ("200", 200),
            ("404", 404),
            ("511", 511),
            ("100", 400),
            ("abc", 400),
            ("99999", 400),
        ] {
            assert_eq!(status(code).status().as_u16(), expected, "{code}");
        }
    }
}
