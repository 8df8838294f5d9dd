//! The sidecar proxy: driven by Envoy's xDS v3 over ADS, it knows no Kubernetes
