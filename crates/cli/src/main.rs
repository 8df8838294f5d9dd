//! The osm command: install, namespaces, the control plane's roles, the embedded cluster, the demos

fn main() {}
