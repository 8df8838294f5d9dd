//! The ADS client's state machine: subscriptions, versions, ACK and NACK.
