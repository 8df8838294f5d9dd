//! What differs between two lists of answers, a line each

use serde_json::Value;

use crate::play::Answer;

/// Every difference: step, place in the body, expected and got.
pub fn differences(expected: &[Answer], got: &[Answer]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, expected) in expected.iter().enumerate() {
        let step = at + 1;
        let Some(got) = got.get(at) else {
            found.push(format!("step {step} {}: no answer", expected.request));
            continue;
        };
        if expected.status != got.status {
            found.push(format!(
                "step {step} {}: status: expected {}, got {}",
                expected.request, expected.status, got.status
            ));
        }
        let mut places = Vec::new();
        compare(&expected.body, &got.body, String::new(), &mut places);
        found.extend(
            places
                .into_iter()
                .map(|place| format!("step {step} {}: {place}", expected.request)),
        );
    }
    found
}

fn compare(expected: &Value, got: &Value, place: String, found: &mut Vec<String>) {
    match (expected, got) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    Some(other) => compare(value, other, format!("{place}/{key}"), found),
                    None => found.push(format!("{place}/{key}: expected {value}, got nothing")),
                }
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                found.push(format!("{place}/{key}: expected nothing, got {value}"));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (value, other)) in a.iter().zip(b).enumerate() {
                compare(value, other, format!("{place}/{at}"), found);
            }
        }
        _ if expected == got => {}
        _ => found.push(format!("{place}: expected {expected}, got {got}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_difference_is_named_by_its_place() {
        let answer = |status, body| Answer {
            request: "GET /x".to_owned(),
            status,
            body,
        };
        let expected = [answer(200, json!({"a": [1, {"b": 2}], "c": 3}))];
        assert_eq!(differences(&expected, &expected), Vec::<String>::new());
        let got = [answer(404, json!({"a": [1, {"b": 4}], "d": 5}))];
        let wanted = [
            "step 1 GET /x: status: expected 200, got 404",
            "step 1 GET /x: /a/1/b: expected 2, got 4",
            "step 1 GET /x: /c: expected 3, got nothing",
            "step 1 GET /x: /d: expected nothing, got 5",
        ];
        assert_eq!(differences(&expected, &got), wanted);
        assert_eq!(differences(&expected, &[]), ["step 1 GET /x: no answer"]);
    }
}
