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
            "" if merge_slashes && !is_last => {}
            other => segments.push(other),
        }
    }
    Some(Cow::Owned(format!("/{}", segments.join("/"))))
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
    use super::normalize;

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
        assert_eq!(normalize("/a//b///", true).as_deref(), Some("/a/b/"));
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
