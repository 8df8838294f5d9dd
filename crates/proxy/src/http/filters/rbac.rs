//! RBAC over requests.

use std::sync::Arc;

use super::overrides::Override;
use super::{FilterContext, Verdict};
use crate::http::reply::LocalReply;
use crate::rbac::Rbac;
use crate::reason::Reason;

/// Lets a request pass, or answers 403. The most specific override of its route counts.
pub(super) fn request(
    name: &str,
    rules: Option<&Arc<Rbac>>,
    context: &mut FilterContext<'_, '_>,
) -> Verdict {
    let rules = match context.routing.specific(name) {
        Some(Override::Rbac(rules)) => rules.as_ref(),
        _ => rules,
    };
    let Some(rules) = rules else {
        return Ok(None);
    };
    let verdict = rules.decide(&context.connection.peer, Some(&context.view()));
    let stats = context.connection.http_stats();
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
