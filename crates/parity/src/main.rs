//! Plays the table of API exchanges against a cluster and compares the answers with those of a real Kubernetes

fn main() {}
