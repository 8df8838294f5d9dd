//! Load balancing as algorithms, Envoy's in result: which priority and endpoint is chosen, who is an outlier, who is
//! healthy, when a circuit breaks. Pure functions of state, event, time and seed; it knows no protobuf, no sockets, no clock.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

pub mod circuit;
pub mod hash;
pub mod health;
pub mod maglev;
pub mod outlier;
pub mod priority;
pub mod ring;
pub mod schedule;
