//! The control plane's programs: informers, index, ADS server, certificate issuing, webhooks, bootstrap
