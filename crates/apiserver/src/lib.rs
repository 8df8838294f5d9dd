//! The embedded cluster's Kubernetes API server: storage, watch, patches, CRDs, admission; knows nothing of meshes
