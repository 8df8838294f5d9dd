//! End-to-end acceptance scenarios by id, on the embedded cluster or a real Kubernetes

fn main() {}
