//! Demo and test workloads: the outside world of the demos and the services of the scenarios, one program

fn main() {}
