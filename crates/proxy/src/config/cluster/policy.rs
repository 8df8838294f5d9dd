//! Load balancing policies from protobuf: the enumeration with its settings, and the list of extensions.

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbConfig;
use envoy_types::pb::envoy::extensions::load_balancing_policies as extensions;
use envoy_types::pb::google::protobuf as wkt;
use extensions::common::v3::locality_lb_config::LocalityConfigSpecifier as Locality;
use extensions::least_request::v3::least_request::SelectionMethod;
use extensions::ring_hash::v3::ring_hash::HashFunction;
use lb::ring::{Function, MOST, Settings};

use super::super::{At, Checked, extension, refuse};
use crate::cluster::{Balance, Contest, LbPolicy};

/// Candidates of LEAST_REQUEST by default, and at most: more would be a full scan.
const CHOICES: u32 = 2;
const CHOICES_MOST: u32 = 64;

/// The policy of a cluster, and what all policies have in common.
pub(super) fn policy(message: &pb::Cluster) -> Checked<(LbPolicy, Balance)> {
    let mut balance = common(message).at("common_lb_config")?;
    let policy = match &message.load_balancing_policy {
        Some(list) => listed(list, &mut balance).at("load_balancing_policy")?,
        None => enumerated(message)?,
    };
    Ok((policy, balance))
}

fn common(message: &pb::Cluster) -> Checked<Balance> {
    use pb::cluster::common_lb_config::LocalityConfigSpecifier as Locality;
    let mut balance = Balance::default();
    let Some(common) = &message.common_lb_config else {
        return Ok(balance);
    };
    if let Some(threshold) = &common.healthy_panic_threshold {
        if !(0.0..=100.0).contains(&threshold.value) {
            return refuse(format!("{} is not from 0 to 100", threshold.value))
                .at("healthy_panic_threshold");
        }
        balance.panic_threshold = threshold.value;
    }
    balance.ignore_unchecked = common.ignore_new_hosts_until_first_hc;
    balance.hash_by_hostname = common
        .consistent_hashing_lb_config
        .as_ref()
        .is_some_and(|hashing| hashing.use_hostname_for_hashing);
    match &common.locality_config_specifier {
        Some(Locality::LocalityWeightedLbConfig(_)) => balance.locality_weighted = true,
        Some(Locality::ZoneAwareLbConfig(zone)) => {
            balance.fail_in_panic = zone.fail_traffic_on_panic;
        }
        None => {}
    }
    Ok(balance)
}

/// `lb_policy` with the settings that belong to it; others' settings have no effect, in Envoy either.
fn enumerated(message: &pb::Cluster) -> Checked<LbPolicy> {
    use pb::cluster::LbPolicy as Named;
    Ok(match Named::try_from(message.lb_policy) {
        Ok(Named::RoundRobin | Named::ClusterProvided) => LbPolicy::RoundRobin,
        Ok(Named::Random) => LbPolicy::Random,
        Ok(Named::LeastRequest) => {
            let choices = match &message.lb_config {
                Some(LbConfig::LeastRequestLbConfig(least)) => least.choice_count,
                _ => None,
            };
            contest(choices, false).at("least_request_lb_config.choice_count")?
        }
        Ok(Named::RingHash) => match &message.lb_config {
            Some(LbConfig::RingHashLbConfig(found)) => {
                use pb::cluster::ring_hash_lb_config::HashFunction;
                let function = match HashFunction::try_from(found.hash_function) {
                    Ok(HashFunction::XxHash) => Function::Xx64,
                    Ok(HashFunction::MurmurHash2) => Function::Murmur2,
                    Err(_) => {
                        return refuse("an unknown function")
                            .at("ring_hash_lb_config.hash_function");
                    }
                };
                let sizes = (found.minimum_ring_size, found.maximum_ring_size);
                ring(sizes, function).at("ring_hash_lb_config")?
            }
            _ => LbPolicy::RingHash(Settings::default()),
        },
        Ok(Named::Maglev) => match &message.lb_config {
            Some(LbConfig::MaglevLbConfig(found)) => {
                maglev(found.table_size).at("maglev_lb_config")?
            }
            _ => LbPolicy::Maglev(lb::maglev::TABLE),
        },
        Ok(Named::LoadBalancingPolicyConfig) => {
            return refuse("load_balancing_policy is needed").at("lb_policy");
        }
        Err(_) => return refuse("an unknown policy").at("lb_policy"),
    })
}

/// The first policy of a list; the support table lets only known ones pass.
fn listed(list: &pb::LoadBalancingPolicy, balance: &mut Balance) -> Checked<LbPolicy> {
    let any = list.policies.first().and_then(|policy| {
        let config = policy.typed_extension_config.as_ref()?;
        config.typed_config.as_ref()
    });
    let Some(any) = any else {
        return refuse("a policy is needed").at("policies");
    };
    // The locality settings of the policy count, not those of common_lb_config.
    balance.locality_weighted = false;
    balance.fail_in_panic = false;
    typed(any, balance).at("policies[0].typed_extension_config.typed_config")
}

#[allow(deprecated)] // Control planes still send the old fields.
fn typed(any: &wkt::Any, balance: &mut Balance) -> Checked<LbPolicy> {
    if let Some(found) = extension::<extensions::round_robin::v3::RoundRobin>(any) {
        locality(found?.locality_lb_config.as_ref(), balance);
        return Ok(LbPolicy::RoundRobin);
    }
    if let Some(found) = extension::<extensions::random::v3::Random>(any) {
        locality(found?.locality_lb_config.as_ref(), balance);
        return Ok(LbPolicy::Random);
    }
    if let Some(found) = extension::<extensions::least_request::v3::LeastRequest>(any) {
        let found = found?;
        locality(found.locality_lb_config.as_ref(), balance);
        let all = found.selection_method == i32::from(SelectionMethod::FullScan)
            || found.enable_full_scan.is_some_and(|on| on.value);
        return contest(found.choice_count, all).at("choice_count");
    }
    if let Some(found) = extension::<extensions::ring_hash::v3::RingHash>(any) {
        let found = found?;
        balance.locality_weighted = found.locality_weighted_lb_config.is_some();
        balance.hash_by_hostname = found.use_hostname_for_hashing
            || hostnames(found.consistent_hashing_lb_config.as_ref());
        let function = match HashFunction::try_from(found.hash_function) {
            Ok(HashFunction::DefaultHash | HashFunction::XxHash) => Function::Xx64,
            Ok(HashFunction::MurmurHash2) => Function::Murmur2,
            Err(_) => return refuse("an unknown function").at("hash_function"),
        };
        return ring((found.minimum_ring_size, found.maximum_ring_size), function);
    }
    match extension::<extensions::maglev::v3::Maglev>(any) {
        Some(found) => {
            let found = found?;
            balance.locality_weighted = found.locality_weighted_lb_config.is_some();
            balance.hash_by_hostname = hostnames(found.consistent_hashing_lb_config.as_ref());
            maglev(found.table_size)
        }
        None => refuse(format!("{:?} is not supported", any.type_url)),
    }
}

fn hostnames(config: Option<&extensions::common::v3::ConsistentHashingLbConfig>) -> bool {
    config.is_some_and(|config| config.use_hostname_for_hashing)
}

fn locality(config: Option<&extensions::common::v3::LocalityLbConfig>, balance: &mut Balance) {
    match config.and_then(|config| config.locality_config_specifier.as_ref()) {
        Some(Locality::LocalityWeightedLbConfig(_)) => balance.locality_weighted = true,
        Some(Locality::ZoneAwareLbConfig(zone)) => {
            balance.fail_in_panic = zone.fail_traffic_on_panic;
        }
        None => {}
    }
}

fn contest(choices: Option<wkt::UInt32Value>, all: bool) -> Checked<LbPolicy> {
    let choices = choices.map_or(CHOICES, |value| value.value);
    match choices {
        _ if all => Ok(LbPolicy::LeastRequest(Contest::All)),
        0 | 1 => refuse(format!("{choices} is less than 2")),
        CHOICES_MOST.. => Ok(LbPolicy::LeastRequest(Contest::All)),
        _ => Ok(LbPolicy::LeastRequest(Contest::Some(choices))),
    }
}

fn ring(
    (least, most): (Option<wkt::UInt64Value>, Option<wkt::UInt64Value>),
    function: Function,
) -> Checked<LbPolicy> {
    let default = Settings::default();
    let least = least.map_or(default.least, |value| value.value);
    let most = most.map_or(default.most, |value| value.value);
    if !(1..=MOST).contains(&least) {
        return refuse(format!("{least} is not from 1 to {MOST}")).at("minimum_ring_size");
    }
    if !(least..=MOST).contains(&most) {
        return refuse(format!("{most} is not from {least} to {MOST}")).at("maximum_ring_size");
    }
    Ok(LbPolicy::RingHash(Settings {
        least,
        most,
        function,
    }))
}

fn maglev(size: Option<wkt::UInt64Value>) -> Checked<LbPolicy> {
    let size = size.map_or(lb::maglev::TABLE, |value| value.value);
    if size > lb::maglev::TABLE_MOST || !lb::maglev::is_prime(size) {
        return refuse(format!(
            "{size} is not a prime up to {}",
            lb::maglev::TABLE_MOST
        ))
        .at("table_size");
    }
    Ok(LbPolicy::Maglev(size))
}
