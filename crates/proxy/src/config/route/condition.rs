//! A route's conditions from protobuf.

use envoy_types::pb::envoy::config::route::v3 as pb;

use crate::config::matching::{header, query, regex};
use crate::config::{At, Checked, each, flag, refuse};
use crate::matcher::{Affix, StringMatch};
use crate::route::{PathMatch, RouteMatch};

pub(super) fn route_match(message: &pb::RouteMatch) -> Checked<RouteMatch> {
    use pb::route_match::PathSpecifier as Path;
    let exact_case = flag(message.case_sensitive.as_ref(), true);
    let path = match &message.path_specifier {
        Some(Path::Prefix(prefix)) if exact_case => PathMatch::Prefix(prefix.clone()),
        Some(Path::Prefix(prefix)) => PathMatch::PrefixNoCase(prefix.to_ascii_lowercase()),
        Some(Path::Path(path)) if exact_case => PathMatch::Text(StringMatch::Exact(path.clone())),
        Some(Path::Path(path)) => {
            PathMatch::Text(StringMatch::NoCase(Affix::Whole, path.to_ascii_lowercase()))
        }
        Some(Path::SafeRegex(message)) => PathMatch::Text(regex(message).at("safe_regex")?),
        Some(Path::PathSeparatedPrefix(prefix)) if exact_case => {
            PathMatch::Segments(prefix.clone())
        }
        _ => return refuse("prefix, path, safe_regex or path_separated_prefix is needed"),
    };
    Ok(RouteMatch {
        path,
        headers: each("headers", &message.headers, header)?,
        query: each("query_parameters", &message.query_parameters, query)?,
        grpc: message.grpc.is_some(),
    })
}
