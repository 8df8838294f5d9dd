//! Outlier detection from protobuf.

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::google::protobuf as wkt;
use lb::outlier::{FailurePercentage, Settings, SuccessRate, Threshold};

use super::super::{At, Checked, duration, flag, refuse};

pub(super) fn outliers(message: &OutlierDetection) -> Checked<Settings> {
    let default = Settings::default();
    let time = |value: Option<&wkt::Duration>, default| value.map_or(Ok(default), duration);
    let number = |value: Option<wkt::UInt32Value>, default| value.map_or(default, |v| v.value);
    let percent =
        |value: Option<wkt::UInt32Value>, default: u32, path: &str| match number(value, default) {
            value @ 0..=100 => Ok(value),
            value => refuse(format!("{value} is more than 100")).at(path),
        };
    let base = time(
        message.base_ejection_time.as_ref(),
        default.base_ejection_time,
    )
    .at("base_ejection_time")?;
    let max_ejection_time = match &message.max_ejection_time {
        None => default.max_ejection_time.max(base),
        Some(value) => duration(value).at("max_ejection_time")?,
    };
    if max_ejection_time < base {
        return refuse("is less than base_ejection_time").at("max_ejection_time");
    }
    let interval = time(message.interval.as_ref(), default.interval).at("interval")?;
    if interval.is_zero() {
        return refuse("must be more than zero").at("interval");
    }
    let threshold = |count, enforcing, default: Threshold, path: &str| {
        Ok(Threshold {
            count: number(count, default.count),
            enforcing: percent(enforcing, default.enforcing, path)?,
        })
    };
    Ok(Settings {
        consecutive_5xx: threshold(
            message.consecutive_5xx,
            message.enforcing_consecutive_5xx,
            default.consecutive_5xx,
            "enforcing_consecutive_5xx",
        )?,
        consecutive_gateway_failure: threshold(
            message.consecutive_gateway_failure,
            message.enforcing_consecutive_gateway_failure,
            default.consecutive_gateway_failure,
            "enforcing_consecutive_gateway_failure",
        )?,
        consecutive_local_origin_failure: threshold(
            message.consecutive_local_origin_failure,
            message.enforcing_consecutive_local_origin_failure,
            default.consecutive_local_origin_failure,
            "enforcing_consecutive_local_origin_failure",
        )?,
        split_origins: message.split_external_local_origin_errors,
        interval,
        base_ejection_time: base,
        max_ejection_time,
        max_ejection_time_jitter: time(
            message.max_ejection_time_jitter.as_ref(),
            default.max_ejection_time_jitter,
        )
        .at("max_ejection_time_jitter")?,
        max_ejection_percent: percent(
            message.max_ejection_percent,
            default.max_ejection_percent,
            "max_ejection_percent",
        )?,
        always_eject_one: flag(message.always_eject_one_host.as_ref(), false),
        success_rate: SuccessRate {
            minimum_hosts: number(
                message.success_rate_minimum_hosts,
                default.success_rate.minimum_hosts,
            ),
            request_volume: number(
                message.success_rate_request_volume,
                default.success_rate.request_volume,
            ),
            // In thousandths.
            stdev_factor: f64::from(number(message.success_rate_stdev_factor, 1900)) / 1000.0,
            enforcing: percent(
                message.enforcing_success_rate,
                default.success_rate.enforcing,
                "enforcing_success_rate",
            )?,
            enforcing_local: percent(
                message.enforcing_local_origin_success_rate,
                default.success_rate.enforcing_local,
                "enforcing_local_origin_success_rate",
            )?,
        },
        failure_percentage: FailurePercentage {
            threshold: percent(
                message.failure_percentage_threshold,
                default.failure_percentage.threshold,
                "failure_percentage_threshold",
            )?,
            minimum_hosts: number(
                message.failure_percentage_minimum_hosts,
                default.failure_percentage.minimum_hosts,
            ),
            request_volume: number(
                message.failure_percentage_request_volume,
                default.failure_percentage.request_volume,
            ),
            enforcing: percent(
                message.enforcing_failure_percentage,
                default.failure_percentage.enforcing,
                "enforcing_failure_percentage",
            )?,
            enforcing_local: percent(
                message.enforcing_failure_percentage_local_origin,
                default.failure_percentage.enforcing_local,
                "enforcing_failure_percentage_local_origin",
            )?,
        },
        health_check_unejects: flag(
            message.successful_active_health_check_uneject_host.as_ref(),
            true,
        ),
    })
}
