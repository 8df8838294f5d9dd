//! The one normal form of a path, made before routing and policies and sent upstream.

use std::borrow::Cow;

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
pub fn unescape_slashes(path: &str) -> Option<String> {
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
    use super::{normalize, unescape_slashes};

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
}
