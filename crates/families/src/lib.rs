//! Reads the kinds of each API family (Kubernetes core, SMI, OSM policies) into values of the model; pure
