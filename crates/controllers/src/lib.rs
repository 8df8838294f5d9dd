//! The embedded cluster's controllers: Deployment, ReplicaSet, Endpoints, ServiceAccount, namespaces, garbage
