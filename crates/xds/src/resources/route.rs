//! Route tables, and conditions on requests.

use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration,
    RouteMatch, VirtualHost, WeightedCluster, header_matcher, retry_policy, route, route_action,
    route_match, weighted_cluster,
};
use model::HttpMatch;

use super::{build, limit, quota};

pub(super) fn table(table: &model::RouteTable) -> RouteConfiguration {
    RouteConfiguration {
        name: table.name.to_string(),
        virtual_hosts: table.hosts.iter().map(|host| virtual_host(host)).collect(),
        metadata: table.explained.then(build::explained),
        ..Default::default()
    }
}

fn virtual_host(host: &model::VirtualHost) -> VirtualHost {
    VirtualHost {
        name: host.name.to_string(),
        domains: host.domains.clone(),
        routes: host.routes.iter().map(one_route).collect(),
        retry_policy: host.retry.as_deref().map(retry),
        typed_per_filter_config: limit::per_filter_config(host.rate.as_ref()),
        rate_limits: quota::actions(&host.counted),
        ..Default::default()
    }
}

fn one_route(value: &model::Route) -> Route {
    let action = match &value.action {
        model::RouteAction::Forward(clusters) => route::Action::Route(RouteAction {
            rate_limits: quota::actions(&value.counted),
            ..forward(clusters)
        }),
        model::RouteAction::Respond(status) => {
            route::Action::DirectResponse(DirectResponseAction {
                status: (*status).into(),
                ..Default::default()
            })
        }
    };
    Route {
        name: value.provenance.to_string(),
        r#match: Some(route_match(&value.matches)),
        metadata: build::origin(&value.provenance),
        typed_per_filter_config: limit::per_filter_config(value.rate.as_ref()),
        action: Some(action),
        ..Default::default()
    }
}

/// The longest pause stays Envoy's: ten times the first.
fn retry(policy: &model::RetryPolicy) -> RetryPolicy {
    RetryPolicy {
        retry_on: policy.conditions.to_string(),
        num_retries: build::number(policy.retries),
        per_try_timeout: policy.per_try_timeout.map(build::duration),
        retry_back_off: policy.back_off.map(|interval| retry_policy::RetryBackOff {
            base_interval: Some(build::duration(interval)),
            max_interval: None,
        }),
        ..Default::default()
    }
}

/// No timeout: how long an answer may take is the application's business.
fn forward(clusters: &[model::WeightedCluster]) -> RouteAction {
    let specifier = match clusters {
        [only] => route_action::ClusterSpecifier::Cluster(only.name.to_string()),
        several => route_action::ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .map(|cluster| weighted_cluster::ClusterWeight {
                    name: cluster.name.to_string(),
                    weight: build::number(cluster.weight),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }),
    };
    RouteAction {
        timeout: Some(build::seconds(0)),
        cluster_specifier: Some(specifier),
        ..Default::default()
    }
}

fn route_match(matches: &model::RouteMatch) -> RouteMatch {
    let any = route_match::PathSpecifier::Prefix("/".to_owned());
    match matches {
        model::RouteMatch::Any => RouteMatch {
            path_specifier: Some(any),
            ..Default::default()
        },
        model::RouteMatch::Http(matches) => RouteMatch {
            path_specifier: Some(match &matches.path {
                Some(path) => route_match::PathSpecifier::SafeRegex(build::regex(path)),
                None => any,
            }),
            headers: headers(matches),
            ..Default::default()
        },
    }
}

/// Conditions on method and headers, all of which must hold.
pub(super) fn headers(matches: &HttpMatch) -> Vec<HeaderMatcher> {
    let methods: Vec<&str> = matches.methods.iter().map(AsRef::as_ref).collect();
    let method = match methods.as_slice() {
        [] => None,
        [only] => Some(build::exact(only)),
        several => Some(build::matching(&several.join("|"))),
    };
    let method = method.map(|matcher| header(":method", matcher));
    let others = matches.headers.iter();
    let others = others.map(|(name, regex)| header(name, build::matching(regex)));
    method.into_iter().chain(others).collect()
}

fn header(
    name: &str,
    matcher: envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher,
) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(matcher)),
        ..Default::default()
    }
}
