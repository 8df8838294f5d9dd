//! The part of JSONPath that printer columns use: fields (with `\.`), indices, `[*]`, quoted names and `[?(@.a=="b")]`.

use serde_json::Value;

/// What a path finds, in document order; a path that cannot be read finds nothing.
pub fn find<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}');
    let Some(steps) = parse(path.strip_prefix('$').unwrap_or(path)) else {
        return Vec::new();
    };
    steps.iter().fold(vec![value], |found, step| {
        found.into_iter().flat_map(|v| advance(v, step)).collect()
    })
}

enum Step {
    Field(String),
    Index(i64),
    All,
    Equal(Vec<Step>, String),
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut chars = path.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' => {
                let mut name = String::new();
                while let Some((_, c)) = chars.peek().copied() {
                    match c {
                        '.' | '[' => break,
                        '\\' => {
                            chars.next();
                            name.push(chars.next()?.1);
                        }
                        c => {
                            chars.next();
                            name.push(c);
                        }
                    }
                }
                match name.as_str() {
                    "" => {}
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(name)),
                }
            }
            '[' => {
                let rest = path.get(at + 1..)?;
                let end = closing(rest)?;
                steps.push(bracket(rest.get(..end)?)?);
                while chars.peek().is_some_and(|(i, _)| *i <= at + 1 + end) {
                    chars.next();
                }
            }
            _ => return None,
        }
    }
    Some(steps)
}

/// The `]` that closes a bracket: not one inside quotes or a nested bracket.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0usize, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(text) {
        return Some(Step::Field(name.to_owned()));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        let (path, wanted) = filter.split_once("==")?;
        let path = path.trim().strip_prefix('@')?;
        let wanted = wanted.trim();
        return Some(Step::Equal(
            parse(path)?,
            unquote(wanted).unwrap_or(wanted).to_owned(),
        ));
    }
    text.parse().ok().map(Step::Index)
}

fn unquote(text: &str) -> Option<&str> {
    ['"', '\'']
        .iter()
        .find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q))
}

fn advance<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let Some(items) = value.as_array() else {
                return Vec::new();
            };
            let at = if *index < 0 {
                items.len().checked_sub(index.unsigned_abs() as usize)
            } else {
                usize::try_from(*index).ok()
            };
            at.and_then(|i| items.get(i)).into_iter().collect()
        }
        Step::All => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Equal(path, wanted) => value
            .as_array()
            .into_iter()
            .flatten()
            .filter(|item| {
                let found = path.iter().fold(vec![*item], |found, step| {
                    found.into_iter().flat_map(|v| advance(v, step)).collect()
                });
                found.first().is_some_and(|v| {
                    v.as_str().map_or_else(|| v.to_string(), str::to_owned) == *wanted
                })
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_of_printer_columns_are_followed() {
        let value = json!({"a": {"b.c": 1, "list": [{"t": "x", "v": 1}, {"t": "y", "v": 2}]}, "m": {"k]": 5}});
        let cases = [
            (".a['b.c']", vec![json!(1)]),
            (".a.b\\.c", vec![json!(1)]),
            ("{.a.list[0].v}", vec![json!(1)]),
            (".a.list[-1].v", vec![json!(2)]),
            (".a.list[*].v", vec![json!(1), json!(2)]),
            (".a.list[?(@.t=='y')].v", vec![json!(2)]),
            (".m[\"k]\"]", vec![json!(5)]),
            (".none.of.this", vec![]),
            ("garbage", vec![]),
            (".a[", vec![]),
        ];
        for (path, expected) in cases {
            assert_eq!(
                find(&value, path),
                expected.iter().collect::<Vec<_>>(),
                "{path}"
            );
        }
    }
}
