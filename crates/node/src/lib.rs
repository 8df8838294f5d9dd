//! The embedded cluster's node: pods as processes in network namespaces, volumes, probes, logs, cluster DNS, Service balancing
