//! Subsets of endpoints from protobuf.

use envoy_types::pb::envoy::config::cluster::v3::cluster::LbSubsetConfig;
use envoy_types::pb::envoy::config::cluster::v3::cluster::lb_subset_config as pb;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use pb::LbSubsetFallbackPolicy as Policy;
use pb::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Own;

use super::super::{At, Checked, each, refuse};
use crate::cluster::subset::{Fallback, Labels, Selector, Subsetting};

/// What is compared is in the metadata under this name.
const LB: &str = "envoy.lb";
/// More ways to divide endpoints than anybody has use for.
const SELECTORS: usize = 32;

pub(super) fn subsetting(message: &LbSubsetConfig) -> Checked<Subsetting> {
    let fallback = match Policy::try_from(message.fallback_policy) {
        Ok(Policy::NoFallback) => Fallback::None,
        Ok(Policy::AnyEndpoint) => Fallback::Any,
        Ok(Policy::DefaultSubset) => Fallback::Default,
        Err(_) => return refuse("an unknown value").at("fallback_policy"),
    };
    let selectors = each("subset_selectors", &message.subset_selectors, selector)?;
    if selectors.len() > SELECTORS {
        return refuse(format!("more than {SELECTORS}")).at("subset_selectors");
    }
    Ok(Subsetting {
        selectors,
        fallback,
        default: message
            .default_subset
            .as_ref()
            .map(fields)
            .unwrap_or_default(),
        panic_any: message.panic_mode_any,
    })
}

fn selector(message: &pb::LbSubsetSelector) -> Checked<Selector> {
    let keys = sorted(&message.keys);
    if keys.is_empty() {
        return refuse("at least one key is needed").at("keys");
    }
    let fewer = sorted(&message.fallback_keys_subset);
    let fallback = match Own::try_from(message.fallback_policy) {
        Ok(Own::NotDefined) => None,
        Ok(Own::NoFallback) => Some(Fallback::None),
        Ok(Own::AnyEndpoint) => Some(Fallback::Any),
        Ok(Own::DefaultSubset) => Some(Fallback::Default),
        Ok(Own::KeysSubset) => {
            let is_less = !fewer.is_empty()
                && fewer.len() < keys.len()
                && fewer.iter().all(|key| keys.contains(key));
            if !is_less {
                return refuse("some of the keys, and not all, are needed")
                    .at("fallback_keys_subset");
            }
            Some(Fallback::Keys(fewer))
        }
        Err(_) => return refuse("an unknown value").at("fallback_policy"),
    };
    Ok(Selector { keys, fallback })
}

fn sorted(keys: &[String]) -> Box<[Box<str>]> {
    let mut keys: Vec<Box<str>> = keys.iter().map(|key| key.as_str().into()).collect();
    keys.sort();
    keys.dedup();
    keys.into()
}

/// What metadata say for load balancing.
pub(in crate::config) fn labels(message: Option<&Metadata>) -> Labels {
    let of_lb = message.and_then(|message| message.filter_metadata.get(LB));
    of_lb.map(fields).unwrap_or_default()
}

fn fields(message: &Struct) -> Labels {
    let fields = message.fields.iter();
    let mut labels: Vec<(Box<str>, Box<str>)> = fields
        .map(|(key, value)| (key.as_str().into(), text(value).into()))
        .collect();
    labels.sort();
    labels.into()
}

/// A value as a text by which equal values are equal, and others are not.
fn text(value: &Value) -> String {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => "null".to_owned(),
        Some(Kind::BoolValue(value)) => value.to_string(),
        Some(Kind::NumberValue(value)) => value.to_string(),
        Some(Kind::StringValue(text)) => format!("{text:?}"),
        Some(Kind::ListValue(list)) => {
            let items: Vec<String> = list.values.iter().map(text).collect();
            format!("[{}]", items.join(","))
        }
        Some(Kind::StructValue(message)) => format!("{:?}", fields(message)),
    }
}
