//! The circuit breaker of a cluster, from its metadata: Envoy has no field for one that judges results.
//!
//! `filter_metadata["osm.circuit_breaker"]` has one field, `settings`: a list of structs with a field each, so that the
//! bytes of a configuration do not depend on the order of a map.

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::{Value, value::Kind};
use http::StatusCode;
use lb::circuit::{Bound, Settings, WHOLE};

use super::super::{At, Checked, refuse};
use crate::cluster::{CircuitBreaker, Degraded};
use crate::reason::Reason;

/// The key of the entry.
const KEY: &str = "osm.circuit_breaker";

pub(super) fn circuit(metadata: Option<&Metadata>) -> Checked<Option<CircuitBreaker>> {
    let entry = metadata.and_then(|metadata| metadata.filter_metadata.get(KEY));
    let Some(entry) = entry else {
        return Ok(None);
    };
    let row = Reason::CircuitOpen.row();
    let mut circuit = CircuitBreaker {
        // osm-edge's defaults.
        settings: Settings {
            window: Duration::from_secs(30),
            min_requests: 100,
            slow_after: Duration::from_secs(5),
            errors: Bound::default(),
            slow: Bound::default(),
            open_for: Duration::from_secs(30),
        },
        degraded: Degraded {
            status: row.status,
            body: Bytes::from_static(row.body.as_bytes()),
        },
    };
    let path = format!("metadata.filter_metadata[{KEY:?}]");
    for (name, value) in &entry.fields {
        match (name.as_str(), &value.kind) {
            ("settings", Some(Kind::ListValue(list))) => {
                for (index, value) in list.values.iter().enumerate() {
                    setting(&mut circuit, value)
                        .at(format_args!("settings[{index}]"))
                        .at(&path)?;
                }
            }
            ("settings", _) => return refuse("must be a list").at("settings").at(&path),
            _ => return refuse("is not known").at(name).at(&path),
        }
    }
    Ok(Some(circuit))
}

fn setting(circuit: &mut CircuitBreaker, value: &Value) -> Checked<()> {
    let Some(Kind::StructValue(fields)) = &value.kind else {
        return refuse("must be a struct");
    };
    for (name, value) in &fields.fields {
        field(circuit, name, value).at(name)?;
    }
    Ok(())
}

fn field(circuit: &mut CircuitBreaker, name: &str, value: &Value) -> Checked<()> {
    let settings = &mut circuit.settings;
    match name {
        "window" => settings.window = seconds(value)?,
        "min_requests" => settings.min_requests = number(value)?,
        "slow_after" => settings.slow_after = seconds(value)?,
        "open_for" => settings.open_for = seconds(value)?,
        "error_amount" => settings.errors.amount = Some(number(value)?),
        "error_share" => settings.errors.share = Some(share(value)?),
        "slow_amount" => settings.slow.amount = Some(number(value)?),
        "slow_share" => settings.slow.share = Some(share(value)?),
        "status" => circuit.degraded.status = status(value)?,
        "body" => match &value.kind {
            Some(Kind::StringValue(text)) => circuit.degraded.body = text.clone().into(),
            _ => return refuse("must be a string"),
        },
        _ => return refuse("is not known"),
    }
    Ok(())
}

/// A number of zero or more, as large as a double tells apart.
fn real(value: &Value) -> Checked<f64> {
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    match value.kind {
        Some(Kind::NumberValue(number)) if (0.0..=LARGEST).contains(&number) => Ok(number),
        _ => refuse("must be a number of zero or more"),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Bounded by `real`.
fn number(value: &Value) -> Checked<u64> {
    Ok(real(value)?.round() as u64)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)] // Saturates: more than all is never reached.
fn share(value: &Value) -> Checked<u64> {
    Ok((real(value)? * WHOLE as f64).round() as u64)
}

fn seconds(value: &Value) -> Checked<Duration> {
    let duration = Duration::try_from_secs_f64(real(value)?);
    duration.or_else(|_| refuse("is too long"))
}

fn status(value: &Value) -> Checked<StatusCode> {
    let code = u16::try_from(number(value)?).ok();
    let code = code.filter(|code| (200..600).contains(code));
    match code.and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(status) => Ok(status),
        None => refuse("must be from 200 to 599"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::google::protobuf::{ListValue, Struct};

    use super::*;

    fn one(name: &str, kind: Kind) -> Value {
        let fields = HashMap::from([(name.to_owned(), Value { kind: Some(kind) })]);
        Value {
            kind: Some(Kind::StructValue(Struct { fields })),
        }
    }

    fn metadata(settings: Vec<Value>) -> Metadata {
        let list = Kind::ListValue(ListValue { values: settings });
        let fields = HashMap::from([("settings".to_owned(), Value { kind: Some(list) })]);
        Metadata {
            filter_metadata: HashMap::from([(KEY.to_owned(), Struct { fields })]),
            ..Default::default()
        }
    }

    #[test]
    fn cb_09_what_is_not_said_is_as_in_osm_edge() {
        assert_eq!(circuit(None).unwrap(), None);
        assert_eq!(circuit(Some(&Metadata::default())).unwrap(), None);
        let found = circuit(Some(&metadata(Vec::new()))).unwrap().unwrap();
        assert_eq!(found.settings.window, Duration::from_secs(30));
        assert_eq!(found.settings.min_requests, 100);
        assert_eq!(found.settings.errors, Bound::default());
        assert_eq!(found.degraded.status, 409);
        assert_eq!(found.degraded.body, "Coming soon ...");
    }

    #[test]
    fn settings_are_read_one_by_one() {
        let found = circuit(Some(&metadata(vec![
            one("window", Kind::NumberValue(0.5)),
            one("slow_after", Kind::NumberValue(0.2)),
            one("error_amount", Kind::NumberValue(100.0)),
            one("slow_share", Kind::NumberValue(0.1)),
            one("status", Kind::NumberValue(503.0)),
            one("body", Kind::StringValue("Service Unavailable!".into())),
        ])));
        let found = found.unwrap().unwrap();
        assert_eq!(found.settings.window, Duration::from_millis(500));
        assert_eq!(found.settings.slow_after, Duration::from_millis(200));
        assert_eq!(found.settings.errors.amount, Some(100));
        assert_eq!(found.settings.slow.share, Some(100_000));
        assert_eq!(found.degraded.status, 503);
        assert_eq!(found.degraded.body, "Service Unavailable!");
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_its_path() {
        let at = "metadata.filter_metadata[\"osm.circuit_breaker\"].settings[0]";
        for (name, kind) in [
            ("status", Kind::NumberValue(99.0)),
            ("status", Kind::NumberValue(600.0)),
            ("window", Kind::NumberValue(-1.0)),
            ("error_amount", Kind::StringValue("5".into())),
            ("error_share", Kind::NumberValue(f64::NAN)),
            ("slow_amount", Kind::NumberValue(f64::INFINITY)),
            ("body", Kind::NumberValue(1.0)),
            ("color", Kind::NumberValue(1.0)),
        ] {
            let rejected = circuit(Some(&metadata(vec![one(name, kind)]))).unwrap_err();
            assert_eq!(rejected.path, format!("{at}.{name}"));
        }
        let text = Value {
            kind: Some(Kind::StringValue(String::new())),
        };
        assert_eq!(circuit(Some(&metadata(vec![text]))).unwrap_err().path, at);
    }
}
