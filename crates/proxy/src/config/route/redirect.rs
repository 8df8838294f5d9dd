//! Redirects and answers from protobuf.

use envoy_types::pb::envoy::config::route::v3 as pb;

use super::data;
use super::rewrite::{substitution, template};
use crate::config::format::body;
use crate::config::{At, Checked, port, refuse};
use crate::route::{Action, PathRedirect, Redirect, Respond};

/// Envoy's limit of a body that stands in the configuration.
const BODY: u32 = 4096;

pub(super) fn redirect(message: &pb::RedirectAction) -> Checked<Redirect> {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let scheme = match &message.scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => {
            Some(scheme.clone()).filter(|scheme| !scheme.is_empty())
        }
    };
    let path = match &message.path_rewrite_specifier {
        None => PathRedirect::Keep,
        Some(PathRewriteSpecifier::PathRedirect(path)) if path.is_empty() => PathRedirect::Keep,
        Some(PathRewriteSpecifier::PathRedirect(path)) => PathRedirect::Path(path.clone()),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => PathRedirect::Prefix(prefix.clone()),
        Some(PathRewriteSpecifier::RegexRewrite(message)) => {
            PathRedirect::Regex(substitution(message).at("regex_rewrite")?)
        }
        Some(PathRewriteSpecifier::PathRewrite(text)) => {
            PathRedirect::Template(template(text).at("path_rewrite")?)
        }
    };
    let status = match RedirectResponseCode::try_from(message.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return refuse("an unknown value").at("response_code"),
    };
    let host = Some(message.host_redirect.clone()).filter(|host| !host.is_empty());
    let port = Some(port(message.port_redirect).at("port_redirect")?).filter(|port| *port != 0);
    Ok(Redirect {
        scheme,
        host,
        port,
        path,
        status,
        strip_query: message.strip_query,
    })
}

/// `most` is the largest body the table allows.
pub(super) fn respond(message: &pb::DirectResponseAction, most: Option<u32>) -> Checked<Action> {
    let status = u16::try_from(message.status)
        .ok()
        .filter(|status| (200..600).contains(status));
    let Some(status) = status else {
        let reason = format!("{} is not a status from 200 to 599", message.status);
        return refuse(reason).at("status");
    };
    let body_bytes = message.body.as_ref().map(data).transpose().at("body")?;
    let body_bytes = body_bytes.unwrap_or_default();
    let most = most.unwrap_or(BODY);
    if u32::try_from(body_bytes.len()).is_ok_and(|length| length > most) {
        let reason = format!("{} bytes are more than {most}", body_bytes.len());
        return refuse(reason).at("body");
    }
    let format = message.body_format.as_ref().map(body).transpose();
    Ok(Action::Respond(Box::new(Respond {
        status,
        body: body_bytes.into(),
        format: format.at("body_format")?,
    })))
}
