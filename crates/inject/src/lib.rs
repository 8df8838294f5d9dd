//! Sidecar injection: which pods, which patch; pure
