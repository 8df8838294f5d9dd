//! The pages of the programs: for people, for programs.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;

/// A page for people: a title and lines of a name and a number. It loads itself anew each second.
pub fn html(title: &str, lines: &[(&str, String)]) -> Response<Full<Bytes>> {
    let title = escape(title);
    let rows: String = lines
        .iter()
        .map(|(name, value)| format!("<tr><td>{name}<td>{}\n", escape(value)))
        .collect();
    let text = format!(
        "<!DOCTYPE html>\n<meta charset=utf-8><meta http-equiv=refresh content=1>\n<title>{title}</title>\n\
         <h1>{title}</h1>\n<table>\n{rows}</table>\n"
    );
    page("text/html; charset=utf-8", text)
}

/// A page for programs, on one line.
pub fn json(value: &Value) -> Response<Full<Bytes>> {
    page("application/json", format!("{value}\n"))
}

/// A short text with a status.
pub fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = page("text/plain; charset=utf-8", format!("{text}\n"));
    *response.status_mut() = status;
    response
}

/// What is not there, or not with this method.
pub fn missing() -> Response<Full<Bytes>> {
    text(StatusCode::NOT_FOUND, "404 page not found")
}

fn page(kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
