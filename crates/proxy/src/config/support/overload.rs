//! The overload manager of the bootstrap file.

use super::message;

message!(OVERLOAD_MANAGER, "envoy.config.overload.v3.OverloadManager", {
    1 refresh_interval: take,
    2 resource_monitors: each RESOURCE_MONITOR,
    3 actions: each OVERLOAD_ACTION,
    4 buffer_factory_config: refuse,
    5 loadshed_points: refuse,
});

message!(RESOURCE_MONITOR, "envoy.config.overload.v3.ResourceMonitor", {
    1 name: take,
    3 typed_config: any FIXED_HEAP CGROUP_MEMORY DOWNSTREAM_CONNECTIONS INJECTED_RESOURCE,
});

message!(FIXED_HEAP, "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig", {
    1 max_heap_size_bytes: take,
    2 max_heap_size_bytes_runtime: refuse,
});

message!(CGROUP_MEMORY, "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig", {
    1 max_memory_bytes: take,
});

message!(DOWNSTREAM_CONNECTIONS, "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig", {
    1 max_active_downstream_connections: take,
});

message!(INJECTED_RESOURCE, "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig", {
    1 filename: take,
});

message!(OVERLOAD_ACTION, "envoy.config.overload.v3.OverloadAction", {
    1 name: take,
    2 triggers: each TRIGGER,
    3 typed_config: ignore "memory goes back to the system by itself",
});

message!(TRIGGER, "envoy.config.overload.v3.Trigger", {
    1 name: take,
    2 threshold: take,
    3 scaled: take,
});
