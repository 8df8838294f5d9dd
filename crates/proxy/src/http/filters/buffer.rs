//! Buffering: the upstream gets a request once all of it has come, and with its length.

use super::overrides::Override;
use super::{FilterContext, Verdict};
use crate::http::reply::LocalReply;
use crate::reason::Reason;

/// Waits for the whole body, and refuses one that is larger than the limit with 413.
pub(super) async fn request(
    name: &str,
    limit: usize,
    context: &mut FilterContext<'_, '_>,
) -> Verdict {
    let limit = match context.routing.specific(name) {
        Some(Override::Buffer(limit)) => *limit,
        _ => limit,
    };
    if context.body.is_end() || context.target.upgrade.is_some() {
        return Ok(None);
    }
    // One byte more tells whether it is too large.
    let buffered = context.body.buffer(limit.saturating_add(1)).await;
    let buffered = buffered.map_err(|reason| Box::new(LocalReply::from(reason)))?;
    if !buffered.whole || buffered.bytes.len() > limit {
        return Err(Box::new(LocalReply::from(Reason::PayloadTooLarge)));
    }
    context.body.settle();
    Ok(None)
}
