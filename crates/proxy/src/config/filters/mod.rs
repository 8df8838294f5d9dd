//! HTTP filters and what routes say about them, from protobuf.

mod authz;
mod common;
mod network;
mod rate;
mod simple;

pub(super) use self::authz::server;
pub(super) use self::common::{fraction, grpc_service};
pub(super) use self::network::network_filter;
pub(super) use self::rate::policies;
pub(super) use self::simple::old_cors_policy;

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::{
    buffer::v3 as buffer,
    cors::v3 as cors,
    ext_authz::v3 as authz_pb,
    fault::v3 as fault_pb,
    header_mutation::v3 as mutation,
    health_check::v3 as health,
    local_ratelimit::v3 as local,
    ratelimit::v3 as global,
    rbac::v3::{Rbac as HttpRbac, RbacPerRoute},
    router::v3::Router,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use envoy_types::pb::google::protobuf::Any;

use super::{At, Checked, extension, rbac, refuse};
use crate::http::filters::cors::{Cors, NAMES as CORS};
use crate::http::filters::counters::Counters;
use crate::http::filters::extension::{factory, route_factory};
use crate::http::filters::fault::{Fault, NAMES as FAULT};
use crate::http::filters::header_mutation::HeaderMutation;
use crate::http::filters::overrides::{Override, Overrides, Setting};
use crate::http::filters::{Filter, HttpFilter};
use crate::rbac::Rules;
use crate::stats::Family;

/// The filters before the router, and the router.
pub(super) fn filters(
    list: &[pb::HttpFilter],
    stat_prefix: &str,
) -> Checked<(Vec<Filter>, Router)> {
    let mut filters: Vec<Filter> = Vec::new();
    let mut router = None;
    for (index, message) in list.iter().enumerate() {
        let path = format!("http_filters[{index}]");
        if router.is_some() {
            return refuse("nothing may stand behind the router").at(path);
        }
        let Some(pb::http_filter::ConfigType::TypedConfig(any)) = &message.config_type else {
            return refuse("a typed_config is needed").at(path);
        };
        if let Some(found) = extension::<Router>(any) {
            router = Some(found.at(format_args!("{path}.typed_config"))?);
            continue;
        }
        filters.push(Filter {
            name: message.name.as_str().into(),
            disabled: message.disabled,
            kind: filter(any, stat_prefix).at(format_args!("{path}.typed_config"))?,
        });
    }
    match router {
        Some(router) => Ok((filters, router)),
        None => refuse("the router is needed as last filter").at("http_filters"),
    }
}

fn filter(any: &Any, stat_prefix: &str) -> Checked<HttpFilter> {
    if let Some(found) = extension::<HttpRbac>(any) {
        return Ok(HttpFilter::Rbac(rules(&found?)?));
    }
    if let Some(found) = extension::<mutation::HeaderMutation>(any) {
        let message = found?;
        return Ok(HttpFilter::HeaderMutation(HeaderMutation {
            mutations: simple::mutations(message.mutations.as_ref()).at("mutations")?,
            most_specific_wins: message.most_specific_header_mutations_wins,
        }));
    }
    if let Some(found) = extension::<cors::Cors>(any) {
        found?;
        let counters = Counters::new(Family::http_filter(stat_prefix, "cors"), CORS);
        return Ok(HttpFilter::Cors(Cors { counters }));
    }
    if let Some(found) = extension::<fault_pb::HttpFault>(any) {
        return Ok(HttpFilter::Fault(Box::new(Fault {
            settings: simple::fault(&found?)?,
            counters: Counters::new(Family::http_filter(stat_prefix, "fault"), FAULT),
        })));
    }
    if let Some(found) = extension::<health::HealthCheck>(any) {
        let filter = simple::health_check(&found?, stat_prefix)?;
        return Ok(HttpFilter::HealthCheck(filter));
    }
    if let Some(found) = extension::<local::LocalRateLimit>(any) {
        return Ok(HttpFilter::LocalRateLimit(Arc::new(rate::local(&found?)?)));
    }
    if let Some(found) = extension::<global::RateLimit>(any) {
        return Ok(HttpFilter::RateLimit(Box::new(rate::global(&found?)?)));
    }
    if let Some(found) = extension::<authz_pb::ExtAuthz>(any) {
        let filter = authz::ext_authz(&found?, stat_prefix)?;
        return Ok(HttpFilter::ExtAuthz(Box::new(filter)));
    }
    if let Some(found) = extension::<buffer::Buffer>(any) {
        return Ok(HttpFilter::Buffer(simple::buffer(&found?)?));
    }
    match factory(message_name(any)).map(|factory| factory.filter(&any.value)) {
        Some(Ok(made)) => Ok(HttpFilter::Extension(made)),
        Some(Err(reason)) => refuse(reason),
        None => refuse(format!("{:?} is not supported", any.type_url)),
    }
}

/// What one level of routes says about filters.
pub(super) fn overrides(configs: &HashMap<String, Any>) -> Checked<Overrides> {
    let settings = configs.iter().map(|(name, any)| {
        let setting = setting(any).at(format_args!("typed_per_filter_config[{name:?}]"))?;
        Ok((Arc::from(name.as_str()), setting))
    });
    Ok(Overrides::new(settings.collect::<Checked<_>>()?))
}

fn setting(any: &Any) -> Checked<Setting> {
    let Some(wrapper) = extension::<FilterConfig>(any) else {
        return setting_of(any);
    };
    let wrapper = wrapper?;
    match &wrapper.config {
        _ if wrapper.disabled => Ok(Setting::Off),
        Some(any) => setting_of(any).at("config"),
        None => refuse("neither a config nor disabled").at("config"),
    }
}

fn setting_of(any: &Any) -> Checked<Setting> {
    if let Some(found) = extension::<buffer::BufferPerRoute>(any) {
        return simple::buffer_of_route(&found?);
    }
    match extension::<authz_pb::ExtAuthzPerRoute>(any) {
        // This one, too, can switch its filter off by itself.
        Some(found) => authz::route(&found?),
        None => Ok(Setting::On(Box::new(override_of(any)?))),
    }
}

fn override_of(any: &Any) -> Checked<Override> {
    if let Some(found) = extension::<RbacPerRoute>(any) {
        let rules = found?.rbac.as_ref().map(rules).transpose().at("rbac")?;
        return Ok(Override::Rbac(rules.unwrap_or_default()));
    }
    if let Some(found) = extension::<mutation::HeaderMutationPerRoute>(any) {
        let mutations = simple::mutations(found?.mutations.as_ref()).at("mutations")?;
        return Ok(Override::HeaderMutation(mutations));
    }
    if let Some(found) = extension::<cors::CorsPolicy>(any) {
        return Ok(Override::Cors(simple::cors_policy(&found?)?));
    }
    if let Some(found) = extension::<fault_pb::HttpFault>(any) {
        return Ok(Override::Fault(simple::fault(&found?)?));
    }
    if let Some(found) = extension::<local::LocalRateLimit>(any) {
        let config = rate::local_of_route(&found?)?;
        return Ok(Override::LocalRateLimit(Arc::new(config)));
    }
    if let Some(found) = extension::<global::RateLimitPerRoute>(any) {
        return Ok(Override::RateLimit(rate::global_of_route(&found?)?));
    }
    match route_factory(message_name(any)).map(|factory| factory.route(&any.value)) {
        Some(Ok(made)) => Ok(Override::Extension(made)),
        Some(Err(reason)) => refuse(reason),
        None => refuse(format!("{:?} is not supported", any.type_url)),
    }
}

fn rules(message: &HttpRbac) -> Checked<Rules> {
    rbac::rules(message.rules.as_ref(), message.shadow_rules.as_ref())
}

fn message_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}
