//! Helm's notation of values on the command line: `a.b=c,d[0].e=1,f={x,y}`.
//!
//! Like Helm's own parser: `\` takes the next character as it is; `true`, `false`, `null` and integers without leading
//! zeros are typed, all else is text.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::{Map, Value};

/// Longest list that an index may make, as in Helm.
const MAX_INDEX: usize = 65536;
/// Deepest nesting, as in Helm.
const MAX_DEPTH: usize = 30;

/// Parses one argument into values that may hold some already.
pub fn parse_into(argument: &str, values: &mut Map<String, Value>) -> Result<(), String> {
    let mut input = argument.chars().peekable();
    while input.peek().is_some() {
        assignment(&mut input, values, 0)?;
    }
    Ok(())
}

/// One `key=value` and the comma after it.
fn assignment(
    input: &mut Peekable<Chars>,
    values: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!(
            "value name nested level is greater than maximum supported nested level of {MAX_DEPTH}"
        ));
    }
    let (key, stop) = until(input, &['=', '[', ',', '.']);
    match stop {
        None | Some(',') if key.is_empty() && depth == 0 => Ok(()),
        Some('=') => {
            let value = value(input)?;
            values.insert(key, value);
            Ok(())
        }
        Some('.') => {
            let inner = values.entry(key.clone()).or_insert(Value::Null);
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            let Value::Object(inner) = inner else {
                return Err(format!("key {key:?} is no map"));
            };
            assignment(input, inner, depth + 1)
        }
        Some('[') => {
            let list = values.entry(key).or_insert(Value::Null);
            element(input, list, depth + 1)
        }
        _ => Err(format!("key {key:?} has no value")),
    }
}

/// What follows a `[`: an index, then a value or more of the path.
fn element(input: &mut Peekable<Chars>, list: &mut Value, depth: usize) -> Result<(), String> {
    let (index, stop) = until(input, &[']']);
    if stop.is_none() {
        return Err(format!("error parsing index: no ] after {index:?}"));
    }
    let index: i64 = index
        .parse()
        .map_err(|_| format!("error parsing index: {index:?} is not a number"))?;
    let index =
        usize::try_from(index).map_err(|_| format!("negative {index} index not allowed"))?;
    if index > MAX_INDEX {
        return Err(format!(
            "index of {index} is greater than maximum supported index of {MAX_INDEX}"
        ));
    }
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let Value::Array(items) = list else {
        return Err("not a list".to_owned());
    };
    if items.len() <= index {
        items.resize(index + 1, Value::Null);
    }
    let Some(item) = items.get_mut(index) else {
        return Err("not a list".to_owned());
    };
    match input.next() {
        Some('=') => *item = value(input)?,
        Some('.') => {
            if !item.is_object() {
                *item = Value::Object(Map::new());
            }
            let Value::Object(item) = item else {
                return Err("not a map".to_owned());
            };
            assignment(input, item, depth + 1)?;
        }
        Some('[') if depth < MAX_DEPTH => element(input, item, depth + 1)?,
        _ => return Err(format!("index {index} has no value")),
    }
    Ok(())
}

/// What follows a `=`, with the comma that ends it.
fn value(input: &mut Peekable<Chars>) -> Result<Value, String> {
    if input.peek() != Some(&'{') {
        return Ok(typed(until(input, &[',']).0));
    }
    input.next();
    let mut items = Vec::new();
    loop {
        let (item, stop) = until(input, &[',', '}']);
        match stop {
            Some('}') => {
                if !item.is_empty() || !items.is_empty() {
                    items.push(typed(item));
                }
                break;
            }
            Some(_) => items.push(typed(item)),
            None => return Err("list must terminate with '}'".to_owned()),
        }
    }
    match input.next() {
        None | Some(',') => Ok(Value::Array(items)),
        Some(other) => Err(format!("unexpected {other:?} after a list")),
    }
}

/// The text before the first of these characters, and which one that was.
fn until(input: &mut Peekable<Chars>, stops: &[char]) -> (String, Option<char>) {
    let mut text = String::new();
    while let Some(next) = input.next() {
        match next {
            '\\' => text.extend(input.next()),
            stop if stops.contains(&stop) => return (text, Some(stop)),
            other => text.push(other),
        }
    }
    (text, None)
}

fn typed(text: String) -> Value {
    match text.as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        "0" => Value::from(0),
        number if !number.starts_with('0') => number
            .parse::<i64>()
            .map_or(Value::String(text), Value::from),
        _ => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(argument: &str) -> Result<Value, String> {
        let mut values = Map::new();
        parse_into(argument, &mut values).map(|()| Value::Object(values))
    }

    #[test]
    fn arguments_mean_what_they_mean_to_helm() {
        for (argument, expected) in [
            (
                "a=1,b=true,c=null,d=x",
                json!({"a": 1, "b": true, "c": null, "d": "x"}),
            ),
            ("a.b.c=d", json!({"a": {"b": {"c": "d"}}})),
            (
                "a=007,b=0,c=1.5,d=-3",
                json!({"a": "007", "b": 0, "c": "1.5", "d": -3}),
            ),
            ("a={x,1,true}", json!({"a": ["x", 1, true]})),
            ("a={},b=2", json!({"a": [], "b": 2})),
            ("a[1]=x,a[0]=y", json!({"a": ["y", "x"]})),
            ("a[0].b=c,a[0].d=e", json!({"a": [{"b": "c", "d": "e"}]})),
            ("a[0][1]=x", json!({"a": [[null, "x"]]})),
            (r"a=x\,y,b=z", json!({"a": "x,y", "b": "z"})),
            (
                r"a.kubernetes\.io/os=linux",
                json!({"a": {"kubernetes.io/os": "linux"}}),
            ),
            ("a=x=y", json!({"a": "x=y"})),
            ("a=", json!({"a": ""})),
            ("a=10.0.0.0/8", json!({"a": "10.0.0.0/8"})),
            ("", json!({})),
        ] {
            assert_eq!(parse(argument).as_ref(), Ok(&expected), "{argument}");
        }
    }

    #[test]
    fn malformed_arguments_say_what_is_wrong() {
        for (argument, message) in [
            ("foo", r#"key "foo" has no value"#),
            ("a.b", r#"key "b" has no value"#),
            ("a,b=1", r#"key "a" has no value"#),
            ("a={x", "list must terminate with '}'"),
            ("a[x]=1", r#"error parsing index: "x" is not a number"#),
            ("a[-1]=1", "negative -1 index not allowed"),
            (
                "a[99999]=1",
                "index of 99999 is greater than maximum supported index of 65536",
            ),
        ] {
            assert_eq!(parse(argument), Err(message.to_owned()), "{argument}");
        }
    }
}
