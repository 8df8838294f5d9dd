//! Changes to path and authority from protobuf.

use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use crate::config::matching::header_name;
use crate::config::{At, Checked, refuse};
use crate::format::Template;
use crate::matcher::compile;
use crate::route::{HostRewrite, PathRewrite, Substitution};

pub(super) fn path_rewrite(message: &pb::RouteAction) -> Checked<PathRewrite> {
    let set = [
        !message.prefix_rewrite.is_empty(),
        message.regex_rewrite.is_some(),
        !message.path_rewrite.is_empty(),
    ];
    if set.iter().filter(|set| **set).count() > 1 {
        return refuse("only one of prefix_rewrite, regex_rewrite and path_rewrite may be set");
    }
    if let Some(message) = &message.regex_rewrite {
        return Ok(PathRewrite::Regex(
            substitution(message).at("regex_rewrite")?,
        ));
    }
    if !message.path_rewrite.is_empty() {
        let template = template(&message.path_rewrite).at("path_rewrite")?;
        return Ok(PathRewrite::Template(template));
    }
    if !message.prefix_rewrite.is_empty() {
        return Ok(PathRewrite::Prefix(message.prefix_rewrite.clone()));
    }
    Ok(PathRewrite::Keep)
}

pub(super) fn host_rewrite(message: &pb::RouteAction) -> Checked<HostRewrite> {
    use pb::route_action::HostRewriteSpecifier as Host;
    Ok(match &message.host_rewrite_specifier {
        None => HostRewrite::Keep,
        Some(Host::HostRewriteLiteral(host)) => HostRewrite::Literal(host.clone()),
        Some(Host::AutoHostRewrite(on)) if on.value => HostRewrite::Endpoint,
        Some(Host::AutoHostRewrite(_)) => HostRewrite::Keep,
        Some(Host::HostRewriteHeader(name)) => {
            HostRewrite::Header(header_name(name).at("host_rewrite_header")?)
        }
        Some(Host::HostRewritePathRegex(message)) => {
            HostRewrite::Path(substitution(message).at("host_rewrite_path_regex")?)
        }
        Some(Host::HostRewrite(text)) => HostRewrite::Template(template(text).at("host_rewrite")?),
    })
}

pub(super) fn substitution(message: &RegexMatchAndSubstitute) -> Checked<Substitution> {
    let Some(pattern) = &message.pattern else {
        return refuse("a pattern is needed").at("pattern");
    };
    let regex = compile(&pattern.regex).or_else(|reason| refuse(reason).at("pattern.regex"))?;
    Substitution::new(regex, &message.substitution)
        .or_else(|reason| refuse(reason).at("substitution"))
}

pub(super) fn template(text: &str) -> Checked<Template> {
    Template::parse(text).or_else(refuse)
}
