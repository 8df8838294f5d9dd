//! osm-edge's circuit breaker of an UpstreamTrafficSetting.

use std::{sync::Arc, time::Duration};

use api::policy::v1alpha1::CircuitBreaking;
use model::{Bound, CircuitBreaker};

const FIELD: &str = "connectionSettings.http.circuitBreaking";

/// osm-edge's defaults (scenario CB-09).
const WINDOW: Duration = Duration::from_secs(30);
const MIN_REQUESTS: u64 = 100;
const SLOW_AFTER: Duration = Duration::from_secs(5);
const OPEN_FOR: Duration = Duration::from_secs(30);
const STATUS: u16 = 409;
const BODY: &str = "Coming soon ...";

/// One, in millionths.
const WHOLE: f64 = 1e6;

/// The breaker; `None` without any threshold.
pub(crate) fn breaker(spec: &CircuitBreaking) -> Result<Option<Arc<CircuitBreaker>>, String> {
    let errors = Bound {
        amount: spec.error_amount_threshold.filter(|amount| *amount > 0),
        share: share("errorRatioThreshold", spec.error_ratio_threshold)?,
    };
    let slow = Bound {
        amount: spec.slow_amount_threshold.filter(|amount| *amount > 0),
        share: share("slowRatioThreshold", spec.slow_ratio_threshold)?,
    };
    let time = |field: &str, text: &Option<String>, default| match text.as_deref() {
        None | Some("") => Ok(default),
        Some(text) => {
            api::duration::parse(text).map_err(|error| format!("{FIELD}.{field}: {error}"))
        }
    };
    let breaker = CircuitBreaker {
        window: time("statTimeWindow", &spec.stat_time_window, WINDOW)?,
        min_requests: spec.min_request_amount.unwrap_or(MIN_REQUESTS),
        open_for: time("degradedTimeWindow", &spec.degraded_time_window, OPEN_FOR)?,
        slow_after: time("slowTimeThreshold", &spec.slow_time_threshold, SLOW_AFTER)?,
        errors,
        slow,
        status: status(spec.degraded_status_code)?,
        body: spec
            .degraded_response_content
            .as_deref()
            .unwrap_or(BODY)
            .into(),
    };
    let is_off = errors == Bound::default() && slow == Bound::default();
    Ok((!is_off).then(|| Arc::new(breaker)))
}

/// A share in millionths. More than all of them is legal, and never reached.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Checked, and bounded.
fn share(field: &str, value: Option<f64>) -> Result<Option<u64>, String> {
    match value {
        None => Ok(None),
        Some(value) if value >= 0.0 => {
            let millionths = (value.min(WHOLE) * WHOLE).round() as u64;
            Ok(Some(millionths).filter(|share| *share > 0))
        }
        Some(value) => Err(format!("{FIELD}.{field} {value} must not be negative")),
    }
}

fn status(code: Option<i64>) -> Result<u16, String> {
    let Some(code) = code else {
        return Ok(STATUS);
    };
    let status = u16::try_from(code).ok();
    let status = status.filter(|status| (200..600).contains(status));
    status.ok_or_else(|| format!("{FIELD}.degradedStatusCode {code} is not from 200 to 599"))
}
