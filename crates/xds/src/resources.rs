//! A proxy's configuration as Envoy xDS v3 resources.
