//! Which xDS fields the proxy honours, ignores and refuses: one table, walked over the protobuf's own bytes.
//!
//! Walking the wire form (not the decoded structs) finds every field that is *set*, those of newer Envoys
//! included, which decoding would drop silently. `docs/xds-support.md` is printed from the same table.

mod access;
mod balance;
mod bootstrap;
mod check;
mod cluster;
mod common;
mod ext_authz;
mod filters;
mod http;
mod listener;
mod overload;
mod rate_limit;
mod route;
mod tls;
mod tracing;
mod walk;

use std::collections::BTreeSet;
use std::fmt::Write;

use xds::client::{Kind, Rejected};

/// What the proxy does with a field that is set.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    /// Honoured; scalars and messages that need no look inside.
    Take,
    /// Harmless without support; the reason is printed.
    Ignore(&'static str),
    /// Honoured at its default value only.
    Zero(&'static str),
    /// Changes meaning and is not supported: the resource is refused.
    Refuse,
    /// A message, looked into.
    Into(&'static Message),
    /// A repeated message, looked into one by one.
    Each(&'static Message),
    /// A map to messages, looked into value by value.
    Entries(&'static Message),
    /// An extension, one of these.
    Any(&'static [&'static Message]),
    /// A map to extensions.
    AnyMap(&'static [&'static Message]),
    /// An HTTP filter: one of [`filters::FILTERS`], or a registered extension.
    Filter,
    /// What a route says about a filter: one of [`filters::OVERRIDES`], or a registered extension's.
    Override,
    /// A map from filters' names to what a route says about them.
    Overrides,
}

/// One protobuf message and its fields.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [Field],
}

/// One field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) rule: Rule,
}

/// `message!(CONST, "proto.Name", { number name: rule, … })`.
macro_rules! message {
    ($constant:ident, $name:literal, { $($number:literal $field:ident: $rule:ident $($why:literal)? $($target:ident)*,)* }) => {
        pub(super) static $constant: super::Message = super::Message {
            name: $name,
            fields: &[$(super::Field {
                number: $number,
                name: stringify!($field),
                rule: super::message!(@$rule $($why)? $($target)*),
            },)*],
        };
    };
    (@take) => { super::Rule::Take };
    (@refuse) => { super::Rule::Refuse };
    (@ignore $why:literal) => { super::Rule::Ignore($why) };
    (@zero $why:literal) => { super::Rule::Zero($why) };
    (@into $target:ident) => { super::Rule::Into(&$target) };
    (@each $target:ident) => { super::Rule::Each(&$target) };
    (@entries $target:ident) => { super::Rule::Entries(&$target) };
    (@any $($target:ident)*) => { super::Rule::Any(&[$(&$target),*]) };
    (@map $($target:ident)*) => { super::Rule::AnyMap(&[$(&$target),*]) };
    (@filter) => { super::Rule::Filter };
    (@override) => { super::Rule::Override };
    (@overrides) => { super::Rule::Overrides };
}
pub(crate) use message;

/// Fields of an accepted resource that are set and ignored, as paths with reasons.
pub type Ignored = Vec<(String, &'static str)>;

/// Checks that a resource sets nothing that would have to be honoured and is not.
pub fn check(kind: Kind, bytes: &[u8]) -> Result<Ignored, Rejected> {
    walk::walk(root(kind), bytes)
}

/// Checks the same of a bootstrap.
pub fn check_bootstrap(bytes: &[u8]) -> Result<Ignored, Rejected> {
    walk::walk(&bootstrap::BOOTSTRAP, bytes)
}

fn root(kind: Kind) -> &'static Message {
    match kind {
        Kind::Cluster => &cluster::CLUSTER,
        Kind::Endpoints => &cluster::CLUSTER_LOAD_ASSIGNMENT,
        Kind::Listener => &listener::LISTENER,
        Kind::Routes => &route::ROUTE_CONFIGURATION,
        Kind::Secret => &tls::SECRET,
    }
}

/// The table as a Markdown page.
pub fn markdown() -> String {
    let mut page = String::from(
        "# xDS support\n\nPrinted by `osm-proxy xds-support` from the table that the proxy itself checks resources with.\n\
         A field that is not in a table is refused: the resource is NACKed with the field's path.\n",
    );
    let mut seen = BTreeSet::new();
    for kind in Kind::ALL {
        let _ = write!(page, "\n# {}\n", kind.short().to_uppercase());
        section(&mut page, root(kind), &mut seen);
    }
    page.push_str("\n# Bootstrap file\n");
    section(&mut page, &bootstrap::BOOTSTRAP, &mut seen);
    page
}

fn section(page: &mut String, message: &'static Message, seen: &mut BTreeSet<&'static str>) {
    if !seen.insert(message.name) {
        return;
    }
    let _ = write!(page, "\n## {}\n\n", message.name);
    if message.fields.is_empty() {
        page.push_str("No fields.\n");
        return;
    }
    page.push_str("| field | support |\n|---|---|\n");
    let mut nested: Vec<&'static Message> = Vec::new();
    for field in message.fields {
        let support = match field.rule {
            Rule::Take => "honoured".to_owned(),
            Rule::Ignore(why) => format!("ignored: {why}"),
            Rule::Zero(why) => format!("refused unless at its default: {why}"),
            Rule::Refuse => "refused".to_owned(),
            Rule::Into(target) | Rule::Each(target) | Rule::Entries(target) => {
                nested.push(target);
                format!("honoured, see {}", target.name)
            }
            Rule::Any(targets) | Rule::AnyMap(targets) => {
                nested.extend(targets);
                one_of(targets)
            }
            Rule::Filter => {
                nested.extend(filters::FILTERS);
                format!("{}, or a registered extension", one_of(filters::FILTERS))
            }
            Rule::Override | Rule::Overrides => {
                nested.extend(filters::OVERRIDES);
                format!(
                    "{}, or a registered extension's",
                    one_of(filters::OVERRIDES)
                )
            }
        };
        let _ = writeln!(page, "| {} | {support} |", field.name);
    }
    for target in nested {
        section(page, target, seen);
    }
}

fn one_of(targets: &[&Message]) -> String {
    let names: Vec<&str> = targets.iter().map(|target| target.name).collect();
    format!("honoured if one of {}", names.join(", "))
}
