//! RBAC over requests.

use super::overrides::Override;
use super::{FilterContext, Verdict};
use crate::http::reply::LocalReply;
use crate::rbac::Rules;
use crate::reason::Reason;

/// Lets a request pass, or answers 403. The most specific override of its route counts.
pub(super) fn request(name: &str, rules: &Rules, context: &mut FilterContext<'_, '_>) -> Verdict {
    let rules = match context.routing.specific(name) {
        Some(Override::Rbac(rules)) => rules,
        _ => rules,
    };
    let peer = &context.connection.peer;
    let remote = context.target.remote.unwrap_or(peer.source);
    let stats = context.connection.http_stats();
    if let Some(shadow) = &rules.shadow {
        let verdict = shadow.decide_from(peer, Some(&context.view()), remote);
        if verdict.allowed {
            stats.rbac_shadow_allowed.increment();
        } else {
            stats.rbac_shadow_denied.increment();
        }
    }
    let Some(enforced) = &rules.enforced else {
        return Ok(None);
    };
    let verdict = enforced.decide_from(peer, Some(&context.view()), remote);
    if verdict.allowed {
        stats.rbac_allowed.increment();
        return Ok(None);
    }
    stats.rbac_denied.increment();
    let policy = verdict.policy.as_deref().unwrap_or("none");
    let mut reply = LocalReply::from(Reason::Denied);
    reply.details = format!("rbac_access_denied_matched_policy[{policy}]").into();
    context.line.policy = verdict.policy;
    Err(Box::new(reply))
}
