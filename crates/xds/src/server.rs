//! The ADS server's state machine: what a stream knows, what it is owed.
