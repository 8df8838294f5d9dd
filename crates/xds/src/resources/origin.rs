//! From a field of a resource back to the objects it was made from.

use std::collections::BTreeSet;

use envoy_types::pb::{
    envoy::config::{core::v3::Metadata, listener::v3::Listener, route::v3::RouteConfiguration},
    google::protobuf::{Any, value},
};
use prost::Message;

use super::{LISTENER, ROUTES, build};

/// Where the field that `path` leads to came from: `virtual_hosts[0].routes[3].route` of a route table,
/// `filter_chains[1].filters` of a listener, each as its provenance is written. A path that names no single route
/// or chain has the origins of all it covers. Resources without provenance have none.
pub fn origins(resource: &Any, path: &str) -> BTreeSet<String> {
    match resource.type_url.as_str() {
        ROUTES => RouteConfiguration::decode(resource.value.as_slice())
            .map(|table| of_table(&table, path))
            .unwrap_or_default(),
        LISTENER => Listener::decode(resource.value.as_slice())
            .map(|listener| of_listener(&listener, path))
            .unwrap_or_default(),
        _ => BTreeSet::new(),
    }
}

fn of_table(table: &RouteConfiguration, path: &str) -> BTreeSet<String> {
    let hosts = at(&table.virtual_hosts, path, "virtual_hosts[");
    let routes = hosts.flat_map(|host| at(&host.routes, path, ".routes["));
    routes
        .filter_map(|route| origin(route.metadata.as_ref()))
        .collect()
}

fn of_listener(listener: &Listener, path: &str) -> BTreeSet<String> {
    let chains = at(&listener.filter_chains, path, "filter_chains[");
    chains
        .filter_map(|chain| origin(chain.metadata.as_ref()))
        .collect()
}

/// The item whose index follows `field` in the path; all of them if none does.
fn at<'a, T>(items: &'a [T], path: &str, field: &str) -> impl Iterator<Item = &'a T> {
    let index = path
        .split_once(field)
        .and_then(|(_, rest)| rest.split_once(']'))
        .and_then(|(number, _)| number.parse::<usize>().ok());
    let (skip, take) = index.map_or((0, items.len()), |index| (index, 1));
    items.iter().skip(skip).take(take)
}

fn origin(metadata: Option<&Metadata>) -> Option<String> {
    let fields = &metadata?.filter_metadata.get(build::METADATA)?.fields;
    match fields.get(build::ORIGIN)?.kind.as_ref()? {
        value::Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::{
        listener::v3::FilterChain,
        route::v3::{Route, VirtualHost},
    };
    use model::Provenance;

    use super::*;

    fn target(name: &str) -> Option<Metadata> {
        build::origin(&Provenance::new("TrafficTarget", "shop", name))
    }

    #[test]
    fn a_path_leads_to_the_objects_behind_it() {
        let host = |names: &[&str]| VirtualHost {
            routes: names
                .iter()
                .map(|name| Route {
                    metadata: target(name),
                    ..Route::default()
                })
                .collect(),
            ..VirtualHost::default()
        };
        let table = build::any(&RouteConfiguration {
            virtual_hosts: vec![host(&["a", "b"]), host(&["c"])],
            ..RouteConfiguration::default()
        });
        let chain = |name: &str| FilterChain {
            metadata: target(name),
            ..FilterChain::default()
        };
        let listener = build::any(&Listener {
            filter_chains: vec![chain("x"), chain("y")],
            ..Listener::default()
        });
        for (resource, path, names) in [
            (&table, "virtual_hosts[0].routes[1].route.retry_policy", "b"),
            (&table, "virtual_hosts[0].domains[2]", "a b"),
            (&table, "", "a b c"),
            (&table, "virtual_hosts[7].routes[1]", ""),
            (&table, "virtual_hosts[-1]", "a b c"),
            (&listener, "filter_chains[1].filters[0].typed_config", "y"),
            (&listener, "filter_chains[99999999999999999999]", "x y"),
            (&listener, "address", "x y"),
        ] {
            let expected: BTreeSet<String> = names
                .split_whitespace()
                .map(|name| format!("TrafficTarget shop/{name}"))
                .collect();
            assert_eq!(origins(resource, path), expected, "{path}");
        }
        let broken = Any {
            value: vec![0xff],
            ..table
        };
        assert!(origins(&broken, "").is_empty());
    }
}
