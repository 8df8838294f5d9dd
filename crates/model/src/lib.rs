//! The mesh as pure values (services, identities, authorizations) and its compilation into one proxy's configuration; knows neither Kubernetes nor protobuf
