//! Trace contexts as headers carry them: B3 (one header or several) and W3C.
//!
//! What is read and written is Envoy's choice of it: of B3 the form that came goes on; ids that are no ids end the
//! trace here, and their headers pass untouched.

use std::fmt::Write;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// B3 in one header: <https://github.com/openzipkin/b3-propagation>.
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
/// <https://www.w3.org/TR/trace-context/>.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// W3C's flag of a trace that is recorded.
const SAMPLED: u8 = 1;

/// A span's place in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; 64 bits if the upper half is empty.
    pub trace: u128,
    /// The span.
    pub span: u64,
    /// The span above it.
    pub parent: Option<u64>,
    /// The trace is recorded.
    pub sampled: bool,
}

/// What a request's headers say of its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Nothing, or just whether it is to be recorded.
    Nothing {
        /// It is, or is not.
        sampled: Option<bool>,
    },
    /// The caller's span.
    Span {
        /// The trace.
        trace: u128,
        /// The caller's span.
        span: u64,
        /// The span above it.
        parent: Option<u64>,
        /// Whether the trace is recorded.
        sampled: Option<bool>,
    },
    /// Something that is no context.
    Broken,
}

/// Which headers carry a context on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carriers {
    /// B3, if at all.
    pub b3: Option<B3Form>,
    /// W3C.
    pub w3c: bool,
}

/// The forms of B3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum B3Form {
    /// `b3`.
    Single,
    /// `x-b3-…`.
    Multiple,
}

// === impl Received ===

impl Received {
    /// Reads B3.
    pub fn b3(headers: &HeaderMap) -> Received {
        match headers.get(B3) {
            Some(single) => Received::b3_single(single).unwrap_or(Received::Broken),
            None => Received::b3_multiple(headers).unwrap_or(Received::Broken),
        }
    }

    /// Reads B3 or, where there is none, W3C; a `traceparent` that is none counts as absent beside B3.
    pub fn b3_or_w3c(headers: &HeaderMap) -> Received {
        match Received::b3(headers) {
            Received::Nothing { sampled: None } => match Received::w3c(headers) {
                Received::Broken => Received::Nothing { sampled: None },
                received => received,
            },
            received => received,
        }
    }

    /// Reads W3C.
    pub fn w3c(headers: &HeaderMap) -> Received {
        let Some(value) = headers.get(TRACEPARENT) else {
            return Received::Nothing { sampled: None };
        };
        traceparent(value).unwrap_or(Received::Broken)
    }

    fn b3_single(value: &HeaderValue) -> Option<Received> {
        let text = value.to_str().ok()?;
        if text.len() == 1 {
            let sampled = Some(is_sampled(text)?);
            return Some(Received::Nothing { sampled });
        }
        let mut parts = text.split('-');
        let trace = parts.next().filter(|id| matches!(id.len(), 16 | 32))?;
        let span = parts.next().filter(|id| id.len() == 16)?;
        let sampled = match parts.next() {
            Some(state) => Some(is_sampled(state)?),
            None => None,
        };
        let parent = match parts.next() {
            Some(id) => Some(id64(id).filter(|_| id.len() == 16)?),
            None => None,
        };
        if parts.next().is_some() {
            return None;
        }
        Some(Received::Span {
            trace: id128(trace)?,
            span: id64(span)?,
            parent,
            sampled,
        })
    }

    fn b3_multiple(headers: &HeaderMap) -> Option<Received> {
        let text = |name| match headers.get(name).map(HeaderValue::to_str) {
            Some(Err(_)) => None,
            Some(Ok(text)) => Some(Some(text)),
            None => Some(None),
        };
        let sampled =
            text(B3_SAMPLED)?.map(|text| text == "1" || text.eq_ignore_ascii_case("true"));
        let (Some(trace), Some(span)) = (text(B3_TRACE)?, text(B3_SPAN)?) else {
            return Some(Received::Nothing { sampled });
        };
        let parent = match text(B3_PARENT)?.filter(|text| !text.is_empty()) {
            Some(parent) => Some(id64(parent)?),
            None => None,
        };
        Some(Received::Span {
            trace: id128(trace)?,
            span: id64(span)?,
            parent,
            sampled,
        })
    }
}

/// A `traceparent`; later versions may say more behind the fields of the first.
fn traceparent(value: &HeaderValue) -> Option<Received> {
    let text = value.to_str().ok()?.trim();
    let (version, fields) = (text.get(..2)?, text.get(..LENGTH)?);
    let is_longer = text.len() > LENGTH;
    if is_longer && (version == "00" || !text.get(LENGTH..)?.starts_with('-')) {
        return None;
    }
    let mut parts = fields.split('-').map(|part| part.as_bytes());
    let mut next = |length: usize| {
        let part = parts.next().filter(|part| part.len() == length)?;
        let is_lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let text = part.iter().all(is_lower).then_some(part)?;
        u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
    };
    let (version, trace) = (next(2)?, next(32)?);
    let (span, flags) = (next(16)?, next(2)?);
    if version == 0xff || trace == 0 || span == 0 {
        return None;
    }
    Some(Received::Span {
        trace,
        span: u64::try_from(span).ok()?,
        parent: None,
        sampled: Some(flags & u128::from(SAMPLED) != 0),
    })
}

/// B3's letters: debug is a stronger kind of yes.
fn is_sampled(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" | "d" => Some(true),
        _ => None,
    }
}

fn id64(text: &str) -> Option<u64> {
    let is_hex = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(is_hex.then_some(text)?, 16).ok()
}

fn id128(text: &str) -> Option<u128> {
    let is_hex = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    u128::from_str_radix(is_hex.then_some(text)?, 16).ok()
}

// === impl TraceContext ===

impl TraceContext {
    /// The trace's id in hexadecimal: 16 digits, or 32 where 16 do not hold it.
    pub fn trace_id(&self) -> String {
        match u64::try_from(self.trace) {
            Ok(short) => format!("{short:016x}"),
            Err(_) => format!("{:032x}", self.trace),
        }
    }

    /// Writes the context to headers, in place of what they said before.
    pub fn write(&self, headers: &mut HeaderMap, carriers: Carriers) {
        match carriers.b3 {
            Some(B3Form::Single) => self.write_b3_single(headers),
            Some(B3Form::Multiple) => self.write_b3_multiple(headers),
            None => {}
        }
        if carriers.w3c {
            let flags = u8::from(self.sampled);
            let text = format!("00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span);
            set(headers, TRACEPARENT, text);
        }
    }

    fn write_b3_single(&self, headers: &mut HeaderMap) {
        let sampled = u8::from(self.sampled);
        let mut text = format!("{}-{:016x}-{sampled}", self.trace_id(), self.span);
        if let Some(parent) = self.parent {
            let _ = write!(text, "-{parent:016x}");
        }
        set(headers, B3, text);
    }

    fn write_b3_multiple(&self, headers: &mut HeaderMap) {
        set(headers, B3_TRACE, self.trace_id());
        set(headers, B3_SPAN, format!("{:016x}", self.span));
        match self.parent {
            Some(parent) => set(headers, B3_PARENT, format!("{parent:016x}")),
            None => drop(headers.remove(B3_PARENT)),
        }
        let sampled = HeaderValue::from_static(if self.sampled { "1" } else { "0" });
        headers.insert(B3_SAMPLED, sampled);
    }
}

/// Whether a request's B3 context, if there is one, stands in one header.
pub fn has_single(headers: &HeaderMap) -> bool {
    headers.contains_key(B3)
}

/// What vendors say beside `traceparent`.
pub fn trace_state(headers: &HeaderMap) -> Option<String> {
    let mut joined = String::new();
    for value in headers.get_all(TRACESTATE) {
        let text = value.to_str().ok()?;
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(text);
    }
    (!joined.is_empty()).then_some(joined)
}

fn set(headers: &mut HeaderMap, name: HeaderName, text: String) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: u128 = 0x463a_c35c_9f64_13ad_4848_5a39_53bb_6124;
    const LOW: u128 = 0x4848_5a39_53bb_6124;
    const SPAN: u64 = 0xa2fb_4a1d_1a96_d312;

    #[test]
    fn what_is_written_is_read_alike() {
        for form in [B3Form::Single, B3Form::Multiple] {
            let context = TraceContext {
                trace: TRACE,
                span: SPAN,
                parent: None,
                sampled: true,
            };
            let mut headers = HeaderMap::new();
            context.write(
                &mut headers,
                Carriers {
                    b3: Some(form),
                    w3c: true,
                },
            );
            let expected = Received::Span {
                trace: TRACE,
                span: SPAN,
                parent: None,
                sampled: Some(true),
            };
            assert_eq!(Received::b3(&headers), expected, "{form:?} {headers:?}");
        }
    }

    fn map(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn span(trace: u128, parent: Option<u64>, sampled: Option<bool>) -> Received {
        Received::Span {
            trace,
            span: SPAN,
            parent,
            sampled,
        }
    }

    fn nothing(sampled: Option<bool>) -> Received {
        Received::Nothing { sampled }
    }

    #[test]
    fn b3_is_read_in_both_forms() {
        let trace = ("x-b3-traceid", "48485a3953bb6124");
        let own = ("x-b3-spanid", "a2fb4a1d1a96d312");
        let long = ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124");
        let cases: &[(&[(&'static str, &str)], Received)] = &[
            (&[], nothing(None)),
            (&[("x-b3-sampled", "0")], nothing(Some(false))),
            (&[("x-b3-sampled", "TRUE")], nothing(Some(true))),
            (&[trace], nothing(None)),
            (&[trace, own], span(LOW, None, None)),
            (
                &[long, own, ("x-b3-parentspanid", "1"), ("x-b3-sampled", "1")],
                span(TRACE, Some(1), Some(true)),
            ),
            (&[("x-b3-traceid", "xyz"), own], Received::Broken),
            (&[("x-b3-traceid", ""), own], Received::Broken),
            (
                &[trace, ("x-b3-spanid", "00000000000000001")],
                Received::Broken,
            ),
            (&[trace, own, ("x-b3-parentspanid", "+1")], Received::Broken),
            (&[("b3", "0")], nothing(Some(false))),
            (&[("b3", "d")], nothing(Some(true))),
            (&[("b3", "x")], Received::Broken),
            (
                &[("b3", "48485a3953bb6124-a2fb4a1d1a96d312")],
                span(LOW, None, None),
            ),
            (
                &[("b3", "48485a3953bb6124-a2fb4a1d1a96d312-d")],
                span(LOW, None, Some(true)),
            ),
            (
                &[(
                    "b3",
                    "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-0-0000000000000001",
                )],
                span(TRACE, Some(1), Some(false)),
            ),
            (
                &[("b3", "48485a3953bb6124-a2fb4a1d1a96d312-1-1")],
                Received::Broken,
            ),
            (&[("b3", "48485a3953bb6124")], Received::Broken),
            (
                &[(
                    "b3",
                    "48485a3953bb6124-a2fb4a1d1a96d312-1-0000000000000001-",
                )],
                Received::Broken,
            ),
        ];
        for (headers, expected) in cases {
            assert_eq!(Received::b3(&map(headers)), *expected, "{headers:?}");
        }
    }

    #[test]
    fn w3c_is_read_as_its_grammar_says() {
        let good = "00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01";
        let cases = [
            (good.to_owned(), span(TRACE, None, Some(true))),
            (good.replace("-01", "-00"), span(TRACE, None, Some(false))),
            (good.replace("-01", "-ff"), span(TRACE, None, Some(true))),
            (format!("{good}-more"), Received::Broken),
            (
                format!("cc{}-more", &good[2..]),
                span(TRACE, None, Some(true)),
            ),
            (format!("cc{}more", &good[2..]), Received::Broken),
            (format!("ff{}", &good[2..]), Received::Broken),
            (good.to_uppercase(), Received::Broken),
            (
                good.replace("463ac35c9f6413ad48485a3953bb6124", &"0".repeat(32)),
                Received::Broken,
            ),
            (
                good.replace("a2fb4a1d1a96d312", &"0".repeat(16)),
                Received::Broken,
            ),
            (good[..54].to_owned(), Received::Broken),
            (String::new(), Received::Broken),
        ];
        for (text, expected) in cases {
            let headers = map(&[("traceparent", &text)]);
            assert_eq!(Received::w3c(&headers), expected, "{text}");
            let beside = match expected {
                Received::Broken => nothing(None),
                other => other,
            };
            assert_eq!(Received::b3_or_w3c(&headers), beside, "{text}");
        }
        let both = map(&[("traceparent", good), ("x-b3-sampled", "0")]);
        assert_eq!(Received::b3_or_w3c(&both), nothing(Some(false)));
    }

    #[test]
    fn contexts_are_written_as_they_are_read() {
        let short = TraceContext {
            trace: LOW,
            span: SPAN,
            parent: None,
            sampled: true,
        };
        let long = TraceContext {
            trace: TRACE,
            parent: Some(7),
            sampled: false,
            ..short
        };
        for context in [short, long] {
            for form in [B3Form::Single, B3Form::Multiple] {
                let mut headers = map(&[("x-b3-parentspanid", "1")]);
                let carriers = Carriers {
                    b3: Some(form),
                    w3c: true,
                };
                context.write(&mut headers, carriers);
                let expected = span(context.trace, context.parent, Some(context.sampled));
                assert_eq!(Received::b3(&headers), expected);
                let expected = span(context.trace, None, Some(context.sampled));
                assert_eq!(Received::w3c(&headers), expected);
            }
        }
        assert_eq!(short.trace_id(), "48485a3953bb6124");
        assert_eq!(long.trace_id(), "463ac35c9f6413ad48485a3953bb6124");
    }

    #[test]
    fn states_of_several_headers_are_one() {
        assert_eq!(trace_state(&map(&[])), None);
        let two = map(&[("tracestate", "a=b"), ("tracestate", "c=d")]);
        assert_eq!(trace_state(&two).as_deref(), Some("a=b,c=d"));
    }
}
