//! The one normal form of a path, made before routing and policies and sent upstream.

use std::borrow::Cow;

/// What is done to paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathRules {
    /// Dot segments are resolved, what needs no encoding is decoded, backslashes turned.
    pub normalize: bool,
    /// Slashes are merged.
    pub merge_slashes: bool,
    /// What is done with `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

/// What is done with encoded slashes and backslashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// They stay: whether they separate is the application's business.
    #[default]
    Keep,
    /// The request is refused.
    Reject,
    /// They are decoded, and the client is sent to the path without them.
    Redirect,
    /// They are decoded.
    Forward,
}

/// A path in its normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Normal<'a> {
    /// It is this.
    Path(Cow<'a, str>),
    /// The client is to ask for this.
    Redirect(String),
}

impl PathRules {
    /// A path's normal form; `None` if it has none, or is not allowed to need one.
    pub fn apply<'a>(&self, path: &'a str) -> Option<Normal<'a>> {
        let unescaped = match self.escaped_slashes {
            EscapedSlashes::Keep => None,
            _ => unescape_slashes(path),
        };
        let escaped = unescaped.is_some();
        if escaped && self.escaped_slashes == EscapedSlashes::Reject {
            return None;
        }
        let path = unescaped.map_or(Cow::Borrowed(path), Cow::Owned);
        let normal = match (self.normalize, path) {
            (true, Cow::Borrowed(path)) => normalize(path, self.merge_slashes)?,
            (true, Cow::Owned(path)) => normalize(&path, self.merge_slashes)?.into_owned().into(),
            (false, path) if self.merge_slashes => merge(path),
            (false, path) => path,
        };
        if escaped && self.escaped_slashes == EscapedSlashes::Redirect {
            return Some(Normal::Redirect(normal.into_owned()));
        }
        Some(Normal::Path(normal))
    }
}

fn merge(path: Cow<'_, str>) -> Cow<'_, str> {
    if !path.contains("//") {
        return path;
    }
    let mut out = String::with_capacity(path.len());
    for letter in path.chars() {
        if !(letter == '/' && out.ends_with('/')) {
            out.push(letter);
        }
    }
    out.into()
}

/// Decodes what needs no encoding, resolves dot segments, turns backslashes, merges slashes if asked.
///
/// `None` for paths that have no normal form. `%2F` and `%5C` stay as they are: whether they separate is the
/// application's business, and decoding them would let `/public%2F..%2Fadmin` become another path.
pub fn normalize(path: &str, merge_slashes: bool) -> Option<Cow<'_, str>> {
    if !path.starts_with('/') {
        return None;
    }
    if !needs_work(path, merge_slashes) {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut inside = decoded.split('/').skip(1).peekable();
    while let Some(segment) = inside.next() {
        let is_last = inside.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    segments.pop();
                }
                if is_last {
                    segments.push(""); // `/a/..` names the directory: `/`.
                }
            }
            other => segments.push(other),
        }
    }
    // Envoy's order: slashes are merged in what has no dots any more.
    let last = segments.len().saturating_sub(1);
    let mut normal = String::with_capacity(path.len());
    for (index, segment) in segments.iter().enumerate() {
        if !merge_slashes || !segment.is_empty() || index == last {
            normal.push('/');
            normal.push_str(segment);
        }
    }
    if normal.is_empty() {
        normal.push('/');
    }
    Some(Cow::Owned(normal))
}

/// Decodes `%2F` and `%5C`; `None` where there are none.
fn unescape_slashes(path: &str) -> Option<String> {
    let (mut rest, mut out) = (path, String::new());
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let slash = match after.get(..2) {
            Some("2f" | "2F") => '/',
            Some("5c" | "5C") => '\\',
            _ => {
                out.push('%');
                rest = after;
                continue;
            }
        };
        out.push(slash);
        rest = after.get(2..).unwrap_or_default();
    }
    out.push_str(rest);
    (out.len() != path.len()).then_some(out)
}

fn needs_work(path: &str, merge_slashes: bool) -> bool {
    path.contains('%')
        || path.contains('\\')
        || path.contains("/.")
        || (merge_slashes && path.contains("//"))
}

/// Percent-decodes unreserved characters (RFC 3986 §6.2.2.2) and turns backslashes.
fn decode(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\\' => out.push(b'/'),
            b'%' => {
                let (digits, after) = after.split_at_checked(2)?;
                let value = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
                // `+5` would parse too.
                if !digits.iter().all(u8::is_ascii_hexdigit) || value == 0 {
                    return None;
                }
                if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
                    out.push(value);
                } else {
                    out.push(b'%');
                    out.extend(digits.to_ascii_uppercase());
                }
                rest = after;
            }
            other => out.push(*other),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_form() {
        let cases = [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a/./b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/public/../admin", Some("/admin")),
            ("/public/%2e%2e/admin", Some("/admin")),
            ("/public/.%2E/admin", Some("/admin")),
            ("/a\\..\\b", Some("/b")),
            ("/../../a", Some("/a")),
            ("/a/..", Some("/")),
            ("/a/.", Some("/a/")),
            ("/a%2f..%2fb", Some("/a%2F..%2Fb")),
            ("/%61dmin", Some("/admin")),
            ("/a//b", Some("/a//b")),
            ("/.hidden", Some("/.hidden")),
            ("/a%00b", None),
            ("/a%", None),
            ("/a%+5", None),
            ("/a%zz", None),
            ("*", None),
            ("", None),
        ];
        for (path, expected) in cases {
            assert_eq!(normalize(path, false).as_deref(), expected, "{path}");
        }
        let merged = [
            ("/a//b///", "/a/b/"),
            ("//", "/"),
            ("/a//../b", "/a/b"),
            ("/a/..//", "/"),
            ("//a", "/a"),
        ];
        for (path, expected) in merged {
            assert_eq!(normalize(path, true).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn escaped_slashes_are_found_and_decoded_once() {
        for (path, expected) in [
            ("/a%2fb%5Cc", Some("/a/b\\c")),
            ("/a%2F", Some("/a/")),
            ("/a%252fb", None),
            ("/a%2", None),
            ("/%%2f", Some("/%/")),
            ("/", None),
        ] {
            assert_eq!(unescape_slashes(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn a_normal_form_is_its_own() {
        for path in ["/a/../%2e%2e/b%41%2f", "/x/./y/..//%5c", "/%25%32%65"] {
            let once = normalize(path, true).unwrap().into_owned();
            let again = normalize(&once, true).unwrap();
            assert_eq!(once, again);
        }
    }

    fn rules(escaped_slashes: EscapedSlashes) -> PathRules {
        PathRules {
            normalize: true,
            merge_slashes: true,
            escaped_slashes,
        }
    }

    #[test]
    fn escaped_slashes_are_kept_refused_or_decoded() {
        use EscapedSlashes::{Forward, Keep, Redirect, Reject};
        let path = |path: &'static str| Some(Normal::Path(path.into()));
        let cases = [
            (Keep, "/a%2fb%5Cc", path("/a%2Fb%5Cc")),
            (Reject, "/a%2fb", None),
            (Reject, "/a%5Cb", None),
            (Reject, "/a%20b", path("/a%20b")),
            (Forward, "/a%2Fb", path("/a/b")),
            (Forward, "/a%2F%2fb%2F..%5cc", path("/a/c")),
            (Forward, "/a%252Fb", path("/a%252Fb")),
            (
                Redirect,
                "/a%2Fb%2F",
                Some(Normal::Redirect("/a/b/".into())),
            ),
            (Redirect, "/a/b", path("/a/b")),
            (Forward, "/%2", None),
        ];
        for (action, raw, expected) in cases {
            assert_eq!(rules(action).apply(raw), expected, "{action:?} {raw}");
        }
        let plain = PathRules {
            normalize: false,
            merge_slashes: true,
            escaped_slashes: Forward,
        };
        assert_eq!(plain.apply("/a%2F/./b"), path("/a/./b"));
    }

    #[test]
    fn every_spelling_of_a_path_has_the_same_form_and_that_form_is_final() {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
        };
        let pieces = [
            "/", "a", "B", "..", ".", "~", "-", "%20", "%2F", "%5C", "x", "%7E", ";", "=",
        ];
        for action in [EscapedSlashes::Keep, EscapedSlashes::Forward] {
            for _ in 0..5_000 {
                let mut plain = String::from("/");
                (0..8).for_each(|_| plain.push_str(pieces[next(pieces.len())]));
                let Some(Normal::Path(form)) = rules(action).apply(&plain) else {
                    panic!("{plain}");
                };
                let again = rules(action).apply(&form);
                assert_eq!(again, Some(Normal::Path(form.clone())), "{plain}");
                // The same path with some of its letters encoded, in either case.
                let mut spelled = String::new();
                let mut rest = plain.as_str();
                while let Some(letter) = rest.chars().next() {
                    let encoded = rest.get(..3).filter(|_| letter == '%');
                    let (text, length) = match (encoded, next(3)) {
                        (Some(encoded), 0) => (encoded.to_ascii_lowercase(), 3),
                        (Some(encoded), _) => (encoded.to_owned(), 3),
                        (None, 0) if letter.is_ascii_alphanumeric() || "-._~".contains(letter) => {
                            (format!("%{:02x}", u32::from(letter)), 1)
                        }
                        (None, _) => (letter.to_string(), 1),
                    };
                    spelled.push_str(&text);
                    rest = &rest[length..];
                }
                let other = rules(action).apply(&spelled);
                assert_eq!(other, Some(Normal::Path(form)), "{plain} as {spelled}");
            }
        }
    }
}
