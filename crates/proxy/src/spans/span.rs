//! A span: a request, or one attempt at it, as collectors are told of it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use super::context::TraceContext;

/// Which end of an exchange a span describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// The one who is asked.
    Server,
    /// The one who asks.
    Client,
}

/// A span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What was done.
    pub name: String,
    /// Which end it describes.
    pub kind: SpanKind,
    /// Its place in the trace.
    pub context: TraceContext,
    /// The span has its id from the caller, or would share it: Zipkin's joined spans.
    pub shared: bool,
    /// The span above it is another process'.
    pub is_below_remote: bool,
    /// What vendors say beside the context.
    pub state: Option<String>,
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Names with values, each name once.
    pub tags: Vec<(Cow<'static, str>, String)>,
    /// What happened when.
    pub annotations: Vec<(Duration, &'static str)>,
    /// It failed.
    pub is_error: bool,
}

impl Span {
    /// A span that begins now.
    pub fn new(name: String, kind: SpanKind, context: TraceContext) -> Span {
        Span {
            name,
            kind,
            context,
            shared: false,
            is_below_remote: false,
            state: None,
            started: SystemTime::now(),
            took: Duration::ZERO,
            tags: Vec::new(),
            annotations: Vec::new(),
            is_error: false,
        }
    }

    /// Sets a tag; the last value of a name counts.
    pub fn tag(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.tags.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.tags.push((name, value)),
        }
    }

    /// Says that something happened so long after the beginning.
    pub fn annotate(&mut self, after: Duration, what: &'static str) {
        self.annotations.push((after, what));
    }

    /// Nanoseconds since 1970 of its beginning and of its end.
    pub fn bounds(&self) -> (u128, u128) {
        let since = self.started.duration_since(SystemTime::UNIX_EPOCH);
        let begin = since.unwrap_or_default().as_nanos();
        (begin, begin.saturating_add(self.took.as_nanos()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_tag_counts() {
        let context = TraceContext {
            trace: 1,
            span: 1,
            parent: None,
            sampled: true,
        };
        let mut span = Span::new("x".into(), SpanKind::Server, context);
        span.tag("a", "1");
        span.tag("b", "2");
        span.tag("a", "3");
        let expected = vec![("a".into(), "3".to_owned()), ("b".into(), "2".to_owned())];
        assert_eq!(span.tags, expected);
    }
}
