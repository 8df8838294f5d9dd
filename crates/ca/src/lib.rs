//! Keys, X.509 certificates, SPIFFE identities: the mesh's root, leaves for CSRs, verifiers
