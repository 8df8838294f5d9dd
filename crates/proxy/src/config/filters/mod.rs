//! HTTP filters and what routes say about them, from protobuf.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac as HttpRbac, RbacPerRoute};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use envoy_types::pb::google::protobuf::Any;

use super::{At, Checked, extension, rbac, refuse};
use crate::http::filters::extension::{factory, route_factory};
use crate::http::filters::overrides::{Override, Overrides, Setting};
use crate::http::filters::{Filter, HttpFilter};
use crate::rbac::Rules;

/// The filters before the router, and the router.
pub(super) fn filters(list: &[pb::HttpFilter]) -> Checked<(Vec<Filter>, Router)> {
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
            kind: filter(any).at(format_args!("{path}.typed_config"))?,
        });
    }
    match router {
        Some(router) => Ok((filters, router)),
        None => refuse("the router is needed as last filter").at("http_filters"),
    }
}

fn filter(any: &Any) -> Checked<HttpFilter> {
    if let Some(found) = extension::<HttpRbac>(any) {
        return Ok(HttpFilter::Rbac(rules(&found?)?));
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
        return Ok(Setting::On(override_of(any)?));
    };
    let wrapper = wrapper?;
    match &wrapper.config {
        _ if wrapper.disabled => Ok(Setting::Off),
        Some(any) => Ok(Setting::On(override_of(any).at("config")?)),
        None => refuse("neither a config nor disabled").at("config"),
    }
}

fn override_of(any: &Any) -> Checked<Override> {
    if let Some(found) = extension::<RbacPerRoute>(any) {
        let rules = found?.rbac.as_ref().map(rules).transpose().at("rbac")?;
        return Ok(Override::Rbac(rules.unwrap_or_default()));
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
