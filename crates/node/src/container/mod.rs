//! Containers as host processes: root file system, namespaces, rights.

pub mod enter;
mod mountpoints;
pub mod process;
pub mod rights;

pub use enter::{Bind, Order};
pub use process::{Ended, KillOnDrop, Pipes, Process, Streams};
pub use rights::Rights;
