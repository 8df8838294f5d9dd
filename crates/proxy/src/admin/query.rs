//! A request's query.

use std::borrow::Cow;

/// The text after the question mark.
pub(super) struct Query<'a>(pub(super) &'a str);

impl<'a> Query<'a> {
    /// Whether a parameter stands, with or without a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.parts().any(|(key, _)| key == name)
    }

    /// A parameter's value, decoded.
    pub(super) fn value(&self, name: &str) -> Option<Cow<'a, str>> {
        let found = self
            .parts()
            .find(|(key, value)| *key == name && !value.is_empty());
        found.map(|(_, value)| decode(value))
    }

    /// Whether a parameter has this value.
    pub(super) fn is(&self, name: &str, value: &str) -> bool {
        self.value(name).is_some_and(|found| found == value)
    }

    fn parts(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.0
            .split('&')
            .map(|part| part.split_once('=').unwrap_or((part, "")))
    }
}

/// Percent-decodes; what is no escape stays as it is.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = match (first, after.split_first_chunk::<2>()) {
            (b'%', Some((digits, after))) => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .map(|byte| (byte, after)),
            (b'+', _) => Some((b' ', after)),
            _ => None,
        };
        let (byte, after) = escape.unwrap_or((*first, after));
        out.push(byte);
        rest = after;
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_and_decoded() {
        let query = Query("usedonly&filter=a%2eb%zz+c&format=json&empty=");
        assert!(query.has("usedonly") && query.has("empty") && !query.has("used"));
        assert_eq!(query.value("filter").as_deref(), Some("a.b%zz c"));
        assert_eq!(query.value("empty"), None);
        assert!(query.is("format", "json") && !query.is("format", "text"));
        assert_eq!(Query("filter=%").value("filter").as_deref(), Some("%"));
    }
}
