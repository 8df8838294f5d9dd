//! The overload manager of the bootstrap file, from protobuf.

use envoy_types::pb::envoy::config::overload::v3 as pb;
use envoy_types::pb::envoy::extensions::resource_monitors::{
    cgroup_memory::v3::CgroupMemoryConfig, downstream_connections::v3::DownstreamConnectionsConfig,
    fixed_heap::v3::FixedHeapConfig, injected_resource::v3::InjectedResourceConfig,
};

use super::{At, Checked, duration, each, extension, refuse};
use crate::overload::{Action, INTERVAL, Monitor, Resource, Rule, Settings, Trigger};

/// What the manager is to do.
pub(crate) fn settings(message: &pb::OverloadManager) -> Checked<Settings> {
    let interval = match &message.refresh_interval {
        Some(interval) => duration(interval).at("refresh_interval")?,
        None => INTERVAL,
    };
    if interval.is_zero() {
        return refuse("more than zero is needed").at("refresh_interval");
    }
    let mut connections = None;
    let mut monitors: Vec<Monitor> = Vec::new();
    for (index, message) in message.resource_monitors.iter().enumerate() {
        let path = format!("resource_monitors[{index}]");
        if monitors.iter().any(|monitor| monitor.name == message.name) {
            return refuse(format!("{:?} stands there twice", message.name)).at(path);
        }
        match monitor(message).at(path)? {
            Watched::Resource(resource) => monitors.push(Monitor {
                name: message.name.clone(),
                resource,
            }),
            Watched::Connections(limit) => connections = Some(limit),
        }
    }
    let actions = each("actions", &message.actions, |message| {
        rule(message, &monitors)
    })?;
    Ok(Settings {
        interval,
        monitors,
        actions,
        connections,
    })
}

enum Watched {
    Resource(Resource),
    /// Held by the limit on connections itself.
    Connections(usize),
}

fn monitor(message: &pb::ResourceMonitor) -> Checked<Watched> {
    let Some(pb::resource_monitor::ConfigType::TypedConfig(any)) = &message.config_type else {
        return refuse("is needed").at("typed_config");
    };
    let made = if let Some(heap) = extension::<FixedHeapConfig>(any) {
        match heap.at("typed_config")?.max_heap_size_bytes {
            0 => return refuse("more than zero is needed").at("typed_config.max_heap_size_bytes"),
            limit => Watched::Resource(Resource::Heap(limit)),
        }
    } else if let Some(group) = extension::<CgroupMemoryConfig>(any) {
        let limit = group.at("typed_config")?.max_memory_bytes;
        Watched::Resource(Resource::Cgroup((limit > 0).then_some(limit)))
    } else if let Some(limit) = extension::<DownstreamConnectionsConfig>(any) {
        let limit = limit.at("typed_config")?.max_active_downstream_connections;
        match usize::try_from(limit) {
            Ok(limit @ 1..) => Watched::Connections(limit),
            _ => {
                let path = "typed_config.max_active_downstream_connections";
                return refuse("more than zero is needed").at(path);
            }
        }
    } else if let Some(injected) = extension::<InjectedResourceConfig>(any) {
        Watched::Resource(Resource::Injected(injected?.filename.into()))
    } else {
        return refuse(format!("{:?} is not supported", any.type_url)).at("typed_config");
    };
    Ok(made)
}

fn rule(message: &pb::OverloadAction, monitors: &[Monitor]) -> Checked<Rule> {
    let mut known = Action::ALL.into_iter();
    let Some(action) = known.find(|action| action.name() == message.name) else {
        return refuse(format!("{:?} is not supported", message.name)).at("name");
    };
    let triggers = each("triggers", &message.triggers, |message| {
        trigger(message, monitors)
    })?;
    Ok(Rule { action, triggers })
}

/// A scaled trigger begins an action that knows no degrees when it is saturated, as in Envoy.
fn trigger(message: &pb::Trigger, monitors: &[Monitor]) -> Checked<Trigger> {
    let place = monitors
        .iter()
        .position(|monitor| monitor.name == message.name);
    let Some(monitor) = place else {
        return refuse(format!("no resource monitor is named {:?}", message.name)).at("name");
    };
    let on = match &message.trigger_oneof {
        Some(pb::trigger::TriggerOneof::Threshold(threshold)) => threshold.value,
        Some(pb::trigger::TriggerOneof::Scaled(scaled)) => scaled.saturation_threshold,
        None => return refuse("threshold or scaled is needed"),
    };
    if !(0.0..=1.0).contains(&on) {
        return refuse(format!("{on} is not from 0 to 1")).at("threshold.value");
    }
    Ok(Trigger {
        monitor,
        on,
        off: on,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Bootstrap;

    fn read(yaml: &str) -> Result<Settings, String> {
        let text = format!("overload_manager:\n{yaml}");
        let bootstrap = Bootstrap::read(&text).map_err(|error| format!("{error:#}"))?;
        Ok(bootstrap.overload.unwrap())
    }

    const HEAP: &str = "
  refresh_interval: 0.25s
  resource_monitors:
  - {name: heap, typed_config: {'@type': type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: 1000}}
  - {name: all, typed_config: {'@type': type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: 7}}
  actions:
  - {name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: heap, threshold: {value: 0.95}}]}
  - {name: envoy.overload_actions.disable_http_keepalive, triggers: [{name: heap, scaled: {scaling_threshold: 0.5, saturation_threshold: 0.8}}]}
";

    #[test]
    fn envoys_overload_manager_is_understood() {
        let settings = read(HEAP).unwrap();
        assert_eq!(settings.interval.as_millis(), 250);
        assert_eq!(settings.connections, Some(7));
        assert_eq!(settings.monitors[0].resource, Resource::Heap(1000));
        let begins: Vec<_> = settings
            .actions
            .iter()
            .map(|rule| (rule.action, rule.triggers[0].on))
            .collect();
        assert_eq!(
            begins,
            [
                (Action::StopRequests, 0.95),
                (Action::DisableKeepAlive, 0.8)
            ]
        );
    }

    #[test]
    fn what_it_cannot_do_is_refused_by_its_path() {
        for (from, to, expected) in [
            (
                "0.95",
                "1.5",
                "overload_manager.actions[0].triggers[0].threshold.value: 1.5 is not from 0 to 1",
            ),
            (
                "triggers: [{name: heap, thr",
                "triggers: [{name: stack, thr",
                "overload_manager.actions[0].triggers[0].name: no resource monitor is named \"stack\"",
            ),
            (
                "disable_http_keepalive",
                "reduce_timeouts",
                "overload_manager.actions[1].name: \"envoy.overload_actions.reduce_timeouts\" is not supported",
            ),
            (
                "max_heap_size_bytes: 1000",
                "max_heap_size_bytes: 0",
                "overload_manager.resource_monitors[0].typed_config.max_heap_size_bytes: more than zero is needed",
            ),
            (
                "name: all",
                "name: heap",
                "overload_manager.resource_monitors[1]: \"heap\" stands there twice",
            ),
        ] {
            let error = read(&HEAP.replace(from, to)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
