//! Configured header values, computed for one request or response.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::format::Facts;
use crate::route::{AddMode, HeaderAdd};

/// Headers with how they meet those that are there.
pub type Additions = Vec<(AddMode, HeaderName, HeaderValue)>;

/// The values as they are now.
pub fn computed(list: &[HeaderAdd], facts: &dyn Facts) -> Additions {
    let computed = list.iter().filter_map(|add| {
        let value = add.value.value(facts)?;
        let wanted = add.keep_empty || !value.is_empty();
        wanted.then(|| (add.mode, add.name.clone(), value))
    });
    computed.collect()
}

/// Puts them among others.
pub fn apply(additions: Additions, headers: &mut HeaderMap) {
    for (mode, name, value) in additions {
        mode.apply(headers, name, value);
    }
}
