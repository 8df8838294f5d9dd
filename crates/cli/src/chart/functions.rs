//! Functions of Helm's template language, those that charts like ours use.

use gtmpl_ng::{Func, FuncError, Value};
use serde_json::Value as Json;

use super::template::{has_api_version, include};

/// By name. All take their arguments as the template gives them; too few are an error.
pub const TABLE: &[(&str, Func)] = &[
    ("include", include),
    ("hasApiVersion", has_api_version),
    ("toYaml", to_yaml),
    ("toJson", to_json),
    ("indent", |arguments| Ok(indent(arguments)?.into())),
    ("nindent", |arguments| {
        Ok(format!("\n{}", indent(arguments)?).into())
    }),
    ("quote", |arguments| {
        Ok(arguments
            .iter()
            .map(|value| format!("{:?}", text(value)))
            .collect::<Vec<_>>()
            .join(" ")
            .into())
    }),
    ("default", default),
    ("required", required),
    ("list", |arguments| Ok(Value::Array(arguments.to_vec()))),
    ("lower", |arguments| {
        Ok(text(argument(arguments, 0)?).to_lowercase().into())
    }),
    ("trim", |arguments| {
        Ok(text(argument(arguments, 0)?).trim().to_owned().into())
    }),
    ("replace", |arguments| {
        let [old, new, all] = [0, 1, 2].map(|index| argument(arguments, index).map(text));
        Ok(all?.replace(&old?, &new?).into())
    }),
    ("ternary", |arguments| {
        let chosen = if is_empty(argument(arguments, 2)?) {
            1
        } else {
            0
        };
        Ok(argument(arguments, chosen)?.clone())
    }),
];

/// Reports a fault of a template.
pub fn fault(message: impl ToString) -> FuncError {
    FuncError::Generic(message.to_string())
}

/// One argument, or the error that there are too few.
pub fn argument(arguments: &[Value], index: usize) -> Result<&Value, FuncError> {
    arguments
        .get(index)
        .ok_or_else(|| fault(format!("argument {} is missing", index + 1)))
}

/// A value as templates print it.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::NoValue | Value::Nil => String::new(),
        other => other.to_string(),
    }
}

/// A template's value from JSON.
pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(bool) => Value::from(*bool),
        Json::String(text) => Value::from(text.as_str()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(float)) => Value::from(float),
            (None, None) => Value::from(number.to_string()),
        },
        Json::Array(items) => Value::Array(items.iter().map(from_json).collect()),
        Json::Object(object) => Value::Map(
            object
                .iter()
                .map(|(key, value)| (key.clone(), from_json(value)))
                .collect(),
        ),
    }
}

fn into_json(value: &Value) -> Json {
    match value {
        Value::String(text) => Json::from(text.as_str()),
        Value::Bool(bool) => Json::Bool(*bool),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Json::from(integer),
            (None, Some(float)) => Json::from(float),
            (None, None) => Json::Null,
        },
        Value::Array(items) => Json::Array(items.iter().map(into_json).collect()),
        Value::Object(map) | Value::Map(map) => Json::Object(
            map.iter()
                .map(|(key, value)| (key.clone(), into_json(value)))
                .collect(),
        ),
        Value::Nil | Value::NoValue | Value::Function(_) => Json::Null,
    }
}

fn to_yaml(arguments: &[Value]) -> Result<Value, FuncError> {
    let yaml = serde_saphyr::to_string(&into_json(argument(arguments, 0)?)).map_err(fault)?;
    Ok(yaml.trim_end().into())
}

fn to_json(arguments: &[Value]) -> Result<Value, FuncError> {
    Ok(into_json(argument(arguments, 0)?).to_string().into())
}

fn indent(arguments: &[Value]) -> Result<String, FuncError> {
    let width = match argument(arguments, 0)? {
        Value::Number(number) => number
            .as_u64()
            .and_then(|width| usize::try_from(width).ok()),
        _ => None,
    };
    let prefix = " ".repeat(
        width
            .filter(|width| *width <= 100)
            .ok_or_else(|| fault("not a width"))?,
    );
    let lines: Vec<String> = text(argument(arguments, 1)?)
        .split('\n')
        .map(|line| format!("{prefix}{line}"))
        .collect();
    Ok(lines.join("\n"))
}

fn default(arguments: &[Value]) -> Result<Value, FuncError> {
    let otherwise = argument(arguments, 0)?;
    Ok(arguments
        .get(1)
        .filter(|given| !is_empty(given))
        .unwrap_or(otherwise)
        .clone())
}

fn required(arguments: &[Value]) -> Result<Value, FuncError> {
    match argument(arguments, 1)? {
        given if is_empty(given) => Err(fault(text(argument(arguments, 0)?))),
        given => Ok(given.clone()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Nil | Value::NoValue => true,
        Value::String(text) => text.is_empty(),
        Value::Bool(bool) => !bool,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(items) => items.is_empty(),
        Value::Map(map) | Value::Object(map) => map.is_empty(),
        Value::Function(_) => false,
    }
}
