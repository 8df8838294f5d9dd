//! Changes to headers from protobuf.

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;

use crate::config::matching::{header_add, header_name};
use crate::config::{Checked, each};
use crate::route::{Edits, Mutations};

/// Removals and additions of one direction.
type Changes<'a> = (&'a [String], &'a [HeaderValueOption]);

pub(super) fn edits(request: Changes<'_>, response: Changes<'_>) -> Checked<Edits> {
    Ok(Edits {
        request: mutations("request", request)?,
        response: mutations("response", response)?,
    })
}

fn mutations(direction: &str, (remove, add): Changes<'_>) -> Checked<Mutations> {
    let removed = format!("{direction}_headers_to_remove");
    let added = format!("{direction}_headers_to_add");
    Ok(Mutations {
        remove: each(&removed, remove, |name| header_name(name))?,
        add: each(&added, add, header_add)?,
    })
}
