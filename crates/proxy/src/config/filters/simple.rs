//! CORS, faults, header mutation and health checks from protobuf.

use envoy_types::pb::envoy::config::common::mutation_rules::v3 as rules;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as faults;
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3 as buffers;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as cors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3 as mutation;
use envoy_types::pb::envoy::extensions::filters::http::health_check::v3 as health;
use envoy_types::pb::google::protobuf::value::Kind;
use http::StatusCode;
use http::header::HeaderValue;

use super::common::{fraction, runtime_fraction, string_list};
use crate::config::matching::{header, header_add, header_name, string};
use crate::config::{At, Checked, duration, each, refuse};
use crate::format::Template;
use crate::fraction::Fraction;
use crate::http::filters::cors::CorsPolicy;
use crate::http::filters::counters::Counters;
use crate::http::filters::fault::{Abort, Delay, FaultSettings};
use crate::http::filters::header_mutation::{Mutation, Mutations, QueryMutation};
use crate::http::filters::health_check::{self, HealthCheck};
use crate::http::filters::overrides::{Override, Setting};
use crate::route::AddMode;
use crate::stats::Family;

/// Bytes of a body that is held whole; more is not, whatever the configuration wants.
pub(super) fn buffer(message: &buffers::Buffer) -> Checked<usize> {
    const MOST: u32 = 64 << 20;
    match message.max_request_bytes.map(|bytes| bytes.value) {
        Some(bytes) if (1..=MOST).contains(&bytes) => {
            Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
        }
        _ => refuse(format!("not from 1 to {MOST}")).at("max_request_bytes"),
    }
}

pub(super) fn buffer_of_route(message: &buffers::BufferPerRoute) -> Checked<Setting> {
    use buffers::buffer_per_route::Override as Given;
    match &message.r#override {
        Some(Given::Disabled(true)) => Ok(Setting::Off),
        Some(Given::Buffer(message)) => {
            let limit = buffer(message).at("buffer")?;
            Ok(Setting::On(Box::new(Override::Buffer(limit))))
        }
        _ => refuse("disabled or buffer is needed"),
    }
}

pub(super) fn cors_policy(message: &cors::CorsPolicy) -> Checked<CorsPolicy> {
    Ok(CorsPolicy {
        origins: string_list(&message.allow_origin_string_match)?,
        methods: value(&message.allow_methods).at("allow_methods")?,
        headers: value(&message.allow_headers).at("allow_headers")?,
        expose: value(&message.expose_headers).at("expose_headers")?,
        max_age: value(&message.max_age).at("max_age")?,
        credentials: message.allow_credentials.map(|flag| flag.value),
        private_network: message.allow_private_network_access.map(|flag| flag.value),
        forward_not_matching: message
            .forward_not_matching_preflights
            .map(|flag| flag.value),
        enabled: share(message.filter_enabled.as_ref()).at("filter_enabled")?,
        shadow: share(message.shadow_enabled.as_ref()).at("shadow_enabled")?,
    })
}

/// The deprecated fields of virtual hosts and routes say the same.
pub(crate) fn old_cors_policy(message: &route::CorsPolicy) -> Checked<CorsPolicy> {
    let enabled = message.enabled_specifier.as_ref();
    cors_policy(&cors::CorsPolicy {
        allow_origin_string_match: message.allow_origin_string_match.clone(),
        allow_methods: message.allow_methods.clone(),
        allow_headers: message.allow_headers.clone(),
        expose_headers: message.expose_headers.clone(),
        max_age: message.max_age.clone(),
        allow_credentials: message.allow_credentials,
        filter_enabled: enabled.map(|specifier| match specifier {
            route::cors_policy::EnabledSpecifier::FilterEnabled(share) => share.clone(),
        }),
        shadow_enabled: message.shadow_enabled.clone(),
        allow_private_network_access: message.allow_private_network_access,
        forward_not_matching_preflights: message.forward_not_matching_preflights,
    })
}

fn value(text: &str) -> Checked<Option<HeaderValue>> {
    match HeaderValue::from_str(text) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(_) => refuse("not a header value"),
    }
}

fn share(message: Option<&core::RuntimeFractionalPercent>) -> Checked<Option<Fraction>> {
    message
        .map(|message| runtime_fraction(Some(message), Fraction::ALL))
        .transpose()
}

pub(super) fn fault(message: &fault::HttpFault) -> Checked<FaultSettings> {
    let delay = message.delay.as_ref().map(delay).transpose().at("delay")?;
    let abort = message.abort.as_ref().map(abort).transpose().at("abort")?;
    let body = message.abort.as_ref().map(|abort| &abort.response_body);
    Ok(FaultSettings {
        delay,
        abort,
        body: body
            .filter(|body| !body.is_empty())
            .map(|body| body.clone().into()),
        cluster: Some(message.upstream_cluster.clone()).filter(|cluster| !cluster.is_empty()),
        headers: each("headers", &message.headers, header)?,
        nodes: message.downstream_nodes.clone(),
        max_active: message.max_active_faults.map(|most| u64::from(most.value)),
    })
}

fn delay(message: &faults::FaultDelay) -> Checked<(Delay, Fraction)> {
    use faults::fault_delay::FaultDelaySecifier as Specifier;
    let delay = match &message.fault_delay_secifier {
        Some(Specifier::FixedDelay(delay)) => Delay::Fixed(duration(delay).at("fixed_delay")?),
        Some(Specifier::HeaderDelay(_)) => Delay::Header,
        None => return refuse("fixed_delay or header_delay is needed"),
    };
    Ok((delay, percentage(message.percentage.as_ref())?))
}

fn abort(message: &fault::FaultAbort) -> Checked<(Abort, Fraction)> {
    use fault::fault_abort::ErrorType;
    let abort = match &message.error_type {
        Some(ErrorType::HttpStatus(status)) => {
            let status = u16::try_from(*status).ok();
            let status = status.filter(|status| (200..600).contains(status));
            match status.and_then(|status| StatusCode::from_u16(status).ok()) {
                Some(status) => Abort::Http(status),
                None => return refuse("not from 200 to 599").at("http_status"),
            }
        }
        Some(ErrorType::GrpcStatus(status)) => Abort::Grpc(*status),
        Some(ErrorType::HeaderAbort(_)) => Abort::Header,
        None => return refuse("http_status, grpc_status or header_abort is needed"),
    };
    Ok((abort, percentage(message.percentage.as_ref())?))
}

fn percentage(
    message: Option<&envoy_types::pb::envoy::r#type::v3::FractionalPercent>,
) -> Checked<Fraction> {
    message
        .map_or(Ok(Fraction::NONE), fraction)
        .at("percentage")
}

pub(super) fn mutations(message: Option<&mutation::Mutations>) -> Checked<Mutations> {
    let Some(message) = message else {
        return Ok(Mutations::default());
    };
    Ok(Mutations {
        request: each("request_mutations", &message.request_mutations, mutation)?,
        query: each(
            "query_parameter_mutations",
            &message.query_parameter_mutations,
            query_mutation,
        )?,
        response: each("response_mutations", &message.response_mutations, mutation)?,
    })
}

fn mutation(message: &rules::HeaderMutation) -> Checked<Mutation> {
    use rules::header_mutation::Action;
    match &message.action {
        Some(Action::Remove(name)) => Ok(Mutation::Remove(header_name(name).at("remove")?)),
        Some(Action::Append(add)) => Ok(Mutation::Add(header_add(add).at("append")?)),
        Some(Action::RemoveOnMatch(remove)) => match &remove.key_matcher {
            Some(matcher) => {
                let matcher = string(matcher).at("remove_on_match.key_matcher")?;
                Ok(Mutation::RemoveOnMatch(matcher))
            }
            None => refuse("a matcher is needed").at("remove_on_match.key_matcher"),
        },
        None => refuse("remove, append or remove_on_match is needed"),
    }
}

fn query_mutation(message: &core::KeyValueMutation) -> Checked<QueryMutation> {
    use core::key_value_append::KeyValueAppendAction as Append;
    let add = match (&message.append, message.remove.as_str()) {
        (Some(add), "") => add,
        (None, name) if !name.is_empty() => return Ok(QueryMutation::Remove(name.to_owned())),
        _ => return refuse("one of append and remove is needed"),
    };
    let Some(record) = &add.record else {
        return refuse("a record is needed").at("append.record");
    };
    let text = match record.value.as_ref().and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text,
        _ => return refuse("a string is needed").at("append.record.value"),
    };
    let template = Template::parse(text).or_else(refuse);
    let mode = match Append::try_from(add.action) {
        Ok(Append::AppendIfExistsOrAdd) => AddMode::Append,
        Ok(Append::AddIfAbsent) => AddMode::IfAbsent,
        Ok(Append::OverwriteIfExistsOrAdd) => AddMode::Overwrite,
        Ok(Append::OverwriteIfExists) => AddMode::OverwriteIfPresent,
        Err(_) => return refuse("an unknown action").at("append.action"),
    };
    Ok(QueryMutation::Add(
        mode,
        record.key.clone(),
        template.at("append.record.value")?,
    ))
}

pub(super) fn health_check(
    message: &health::HealthCheck,
    stat_prefix: &str,
) -> Checked<HealthCheck> {
    let percentages = message.cluster_min_healthy_percentages.iter();
    let mut clusters: Vec<_> = percentages
        .map(|(name, percent)| (name.as_str().into(), percent.value.clamp(0.0, 100.0) as u64))
        .collect();
    clusters.sort();
    let Some(pass_through) = message.pass_through_mode else {
        return refuse("true or false is needed").at("pass_through_mode");
    };
    Ok(HealthCheck {
        pass_through: pass_through.value,
        headers: each("headers", &message.headers, header)?,
        clusters,
        counters: Counters::new(
            Family::http_filter(stat_prefix, "health_check"),
            health_check::NAMES,
        ),
    })
}
