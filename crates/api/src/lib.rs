//! The kinds users write (MeshConfig, Egress, SMI ...) as Rust types with derived CRDs, and the labels and annotations of the mesh
