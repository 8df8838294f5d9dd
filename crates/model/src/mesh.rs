//! The mesh: all values of one moment, indexed by the questions that compilation asks.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use crate::{
    compile::{self, Everything},
    config::{ProxyConfig, Rule},
    identity::{Identity, ServiceAccount},
    limits::{Authorizer, RetryPolicy, RetryRule, UpstreamSetting},
    policy::{Authorization, EgressRule, IngressRule, PortSet, Split},
    provenance::Provenance,
    service::{Service, Workload},
};

/// Mesh-wide settings. The default allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshSettings {
    /// Trust domain of all identities.
    pub trust_domain: Arc<str>,
    /// Whether every verified identity may call every service.
    pub permissive: bool,
    /// Whether unknown destinations are reached as dialled. Egress rules are idle then.
    pub egress_passthrough: bool,
    /// Who judges every inbound request beside the grants.
    pub authorizer: Option<Arc<Authorizer>>,
    /// Whether somebody must judge inbound requests and cannot be asked: then nobody's request is allowed.
    pub requests_blocked: bool,
    /// Whether callers of the mesh who ask are told why they are refused.
    pub refusals_explained: bool,
    /// TLS inside the mesh.
    pub tls: TlsParameters,
    /// Who is told of requests.
    pub tracing: Option<Arc<Tracing>>,
}

/// A collector of traces, and which requests it is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// Host name or address of the collector.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// The path that takes spans.
    pub path: Arc<str>,
    /// So many of ten thousand requests, unless their context says otherwise.
    pub sampled: u16,
}

/// TLS versions, ciphers and curves inside the mesh, in Envoy's words; empty = the proxy's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsParameters {
    /// Lowest version, e.g. `TLSv1_2`.
    pub minimum: Arc<str>,
    /// Highest version.
    pub maximum: Arc<str>,
    /// Cipher suites of TLS 1.2.
    pub cipher_suites: Vec<String>,
    /// Key exchange groups.
    pub ecdh_curves: Vec<String>,
}

/// The values a [`Mesh`] is made of, in any order.
#[derive(Clone, Debug, Default)]
pub struct MeshParts {
    /// Settings.
    pub settings: MeshSettings,
    /// Services of monitored namespaces.
    pub services: Vec<Service>,
    /// Pods with a sidecar in monitored namespaces.
    pub workloads: Vec<Workload>,
    /// Who may call whom.
    pub authorizations: Vec<Authorization>,
    /// Traffic splits.
    pub splits: Vec<Split>,
    /// What may leave the mesh.
    pub egress: Vec<EgressRule>,
    /// What may enter it.
    pub ingress: Vec<IngressRule>,
    /// Limits, at most one for each service; of several the first counts.
    pub upstream_settings: Vec<UpstreamSetting>,
    /// Retries; of several for one client and service the first counts.
    pub retries: Vec<RetryRule>,
}

/// All values of one moment. Cheap to ask; built anew when something changed.
#[derive(Debug)]
pub struct Mesh {
    pub(crate) settings: MeshSettings,
    /// Ordered by namespace and name, so that every answer is in a stable order.
    pub(crate) services: Vec<ServiceEntry>,
    pub(crate) service_index: HashMap<Key, usize>,
    pub(crate) backed_by: HashMap<ServiceAccount, Vec<usize>>,
    pub(crate) backing: HashMap<Key, Vec<Backing>>,
    pub(crate) granted_to: HashMap<ServiceAccount, Vec<Arc<Authorization>>>,
    pub(crate) granted_on: HashMap<ServiceAccount, Grants>,
    pub(crate) splits_of: HashMap<Key, Vec<Arc<Split>>>,
    pub(crate) splits_on: HashMap<Key, Vec<Arc<Split>>>,
    pub(crate) egress_for: HashMap<ServiceAccount, Vec<Arc<EgressRule>>>,
    pub(crate) ingress_on: HashMap<Key, Vec<IngressRule>>,
    pub(crate) settings_of: HashMap<Key, UpstreamSetting>,
    pub(crate) retries_of: HashMap<ServiceAccount, HashMap<Key, Arc<RetryPolicy>>>,
    workloads: HashMap<Arc<str>, Vec<Arc<Workload>>>,
    /// What all proxies may dial in permissive mode: made by the first that asks.
    everything: OnceLock<Arc<Everything>>,
    /// The same of the mesh before.
    former: Option<Arc<Everything>>,
}

/// Namespace and name.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// A service with the names of its ports' clusters.
#[derive(Debug)]
pub(crate) struct ServiceEntry {
    pub service: Service,
    /// Parallel to `service.ports`.
    pub clusters: Vec<Arc<str>>,
}

/// One service port that a pod stands behind.
#[derive(Clone, Debug)]
pub(crate) struct Backing {
    pub service: usize,
    pub port: usize,
    pub target_port: u16,
    pub hostname: Option<Arc<str>>,
}

/// A place of a workload behind a service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Namespace and name of the service.
    pub service: (Arc<str>, Arc<str>),
    /// The service's port.
    pub port: u16,
    /// The port on the pod.
    pub target_port: u16,
    /// Its host name below a headless service.
    pub hostname: Option<Arc<str>>,
}

/// What is granted on one destination, as rules for its proxies.
#[derive(Clone, Debug)]
pub(crate) struct Grants {
    /// Connections to opaque ports.
    pub tcp: Arc<[Rule]>,
    /// Connections to HTTP ports.
    pub http: Arc<[Rule]>,
    /// Requests.
    pub requests: Arc<[Rule]>,
}

// === impl TlsParameters ===

impl Default for TlsParameters {
    fn default() -> Self {
        Self {
            minimum: "TLSv1_2".into(),
            maximum: "TLSv1_3".into(),
            cipher_suites: Vec::new(),
            ecdh_curves: Vec::new(),
        }
    }
}

// === impl Mesh ===

impl Mesh {
    /// Indexes the values.
    pub fn new(mut parts: MeshParts) -> Self {
        parts
            .services
            .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        parts
            .authorizations
            .sort_by(|a, b| a.provenance.cmp(&b.provenance));
        let services: Vec<ServiceEntry> =
            parts.services.into_iter().map(ServiceEntry::new).collect();
        let mut mesh = Self {
            settings: parts.settings,
            service_index: HashMap::with_capacity(services.len()),
            services,
            backed_by: HashMap::new(),
            backing: HashMap::new(),
            granted_to: HashMap::new(),
            granted_on: HashMap::new(),
            splits_of: HashMap::new(),
            splits_on: HashMap::new(),
            egress_for: HashMap::new(),
            ingress_on: HashMap::new(),
            settings_of: HashMap::new(),
            retries_of: HashMap::new(),
            workloads: HashMap::new(),
            everything: OnceLock::new(),
            former: None,
        };
        mesh.index_services();
        mesh.index_authorizations(parts.authorizations);
        mesh.index_splits(parts.splits);
        mesh.index_egress(parts.egress);
        mesh.index_ingress(parts.ingress);
        mesh.index_limits(parts.upstream_settings, parts.retries);
        for workload in parts.workloads {
            let uuid = workload.proxy_uuid.clone();
            mesh.workloads
                .entry(uuid)
                .or_default()
                .push(Arc::new(workload));
        }
        mesh
    }

    /// The mesh after this one: what did not change is shared with it.
    pub fn succeeded_by(&self, mut next: Self) -> Self {
        next.former = self.everything.get().or(self.former.as_ref()).cloned();
        next
    }

    pub(crate) fn everything(&self) -> &Arc<Everything> {
        self.everything
            .get_or_init(|| Arc::new(Everything::new(self, self.former.as_deref())))
    }

    /// The mesh-wide settings.
    pub fn settings(&self) -> &MeshSettings {
        &self.settings
    }

    /// The workload whose pod carries this proxy UUID. `None` also when several pods claim it: whoever
    /// copies a label must not be taken for somebody else.
    pub fn workload(&self, proxy_uuid: &str) -> Option<&Workload> {
        match self.workloads.get(proxy_uuid)?.as_slice() {
            [workload] => Some(workload),
            _ => None,
        }
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values().flatten().map(AsRef::as_ref)
    }

    /// What the proxy of `workload` has to do.
    pub fn compile(&self, workload: &Workload) -> ProxyConfig {
        let outbound = self.compile_outbound(workload);
        outbound.join(self.compile_inbound(workload))
    }

    /// The half of it that all workloads of one account have in common if their proxies log alike: what they may dial.
    pub fn compile_outbound(&self, workload: &Workload) -> ProxyConfig {
        compile::outbound(self, workload)
    }

    /// The other half: what others may send to it.
    pub fn compile_inbound(&self, workload: &Workload) -> ProxyConfig {
        compile::inbound(self, workload)
    }

    /// The places where a workload stands behind services, by name and number. Workloads of one account that stand
    /// in the same places are sent the same.
    pub fn places(&self, workload: &Workload) -> Vec<Place> {
        let pod = (workload.namespace.clone(), workload.name.clone());
        let backing = self.backing.get(&pod).into_iter().flatten();
        let places = backing.filter_map(|backing| {
            let service = &self.services.get(backing.service)?.service;
            Some(Place {
                service: (service.namespace.clone(), service.name.clone()),
                port: service.ports.get(backing.port)?.port,
                target_port: backing.target_port,
                hostname: backing.hostname.clone(),
            })
        });
        places.collect()
    }

    /// `account` within this mesh's trust domain.
    pub fn identity(&self, account: &ServiceAccount) -> Identity {
        Identity {
            trust_domain: self.settings.trust_domain.clone(),
            account: account.clone(),
        }
    }

    fn index_services(&mut self) {
        for (index, entry) in self.services.iter().enumerate() {
            let service = &entry.service;
            let namespace = &service.namespace;
            self.service_index
                .insert((namespace.clone(), service.name.clone()), index);
            for (port_index, port) in service.ports.iter().enumerate() {
                for endpoint in &port.endpoints {
                    let services = self.backed_by.entry(endpoint.account.clone()).or_default();
                    if services.last() != Some(&index) {
                        services.push(index);
                    }
                    let pod = (namespace.clone(), endpoint.pod.clone());
                    self.backing.entry(pod).or_default().push(Backing {
                        service: index,
                        port: port_index,
                        target_port: endpoint.address.port(),
                        hostname: endpoint.hostname.clone(),
                    });
                }
            }
        }
    }

    fn index_authorizations(&mut self, authorizations: Vec<Authorization>) {
        let mut by_destination: BTreeMap<ServiceAccount, Vec<Arc<Authorization>>> = BTreeMap::new();
        for authorization in authorizations {
            // No source or no grant = nobody. Rules without principals must never come to be:
            // a reader could take an empty list for "any".
            let grants_nothing = authorization.tcp.is_none() && authorization.http.is_empty();
            if authorization.sources.is_empty() || grants_nothing {
                continue;
            }
            let authorization = Arc::new(authorization);
            for source in &authorization.sources {
                let granted = self.granted_to.entry(source.clone()).or_default();
                granted.push(authorization.clone());
            }
            by_destination
                .entry(authorization.destination.clone())
                .or_default()
                .push(authorization);
        }
        for (destination, authorizations) in by_destination {
            let grants = Grants::new(&self.settings, &authorizations);
            self.granted_on.insert(destination, grants);
        }
    }

    fn index_splits(&mut self, mut splits: Vec<Split>) {
        // Several splits of one apex: those with matches in the order of their names, then the first without.
        splits.sort_by(|a, b| a.provenance.cmp(&b.provenance));
        for split in splits {
            let split = Arc::new(split);
            let apex = (split.namespace.clone(), split.apex.clone());
            self.splits_of.entry(apex).or_default().push(split.clone());
            for backend in &split.backends {
                let key = (split.namespace.clone(), backend.service.clone());
                let splits = self.splits_on.entry(key).or_default();
                if !splits.iter().any(|known| Arc::ptr_eq(known, &split)) {
                    splits.push(split.clone());
                }
            }
        }
    }

    fn index_egress(&mut self, mut rules: Vec<EgressRule>) {
        rules.sort_by(|a, b| a.provenance.cmp(&b.provenance));
        for rule in rules {
            let rule = Arc::new(rule);
            for source in &rule.sources {
                let rules = self.egress_for.entry(source.clone()).or_default();
                rules.push(rule.clone());
            }
        }
    }

    fn index_ingress(&mut self, mut rules: Vec<IngressRule>) {
        rules.sort_by(|a, b| a.provenance.cmp(&b.provenance));
        for rule in rules {
            let service = (rule.namespace.clone(), rule.service.clone());
            self.ingress_on.entry(service).or_default().push(rule);
        }
    }

    fn index_limits(&mut self, mut settings: Vec<UpstreamSetting>, mut retries: Vec<RetryRule>) {
        settings.sort_by(|a, b| a.provenance.cmp(&b.provenance));
        for setting in settings {
            let service = (setting.namespace.clone(), setting.service.clone());
            self.settings_of.entry(service).or_insert(setting);
        }
        retries.sort_by(|a, b| a.provenance.cmp(&b.provenance));
        for rule in retries {
            let policy = Arc::new(rule.policy);
            let policies = self.retries_of.entry(rule.source).or_default();
            for service in rule.services {
                policies.entry(service).or_insert_with(|| policy.clone());
            }
        }
    }
}

// === impl ServiceEntry ===

impl ServiceEntry {
    pub(crate) fn key(&self) -> Key {
        (self.service.namespace.clone(), self.service.name.clone())
    }

    fn new(mut service: Service) -> Self {
        service.ports.sort_by_key(|port| port.port);
        service.ports.dedup_by_key(|port| port.port);
        let mut clusters: Vec<Arc<str>> = Vec::with_capacity(service.ports.len());
        for (index, port) in service.ports.iter().enumerate() {
            let mut name = format!("{}|{}", service.key(), port.naming_port());
            // Two ports may lead to the same target port: the same cluster if everything else is the
            // same too, else (named target ports, another protocol) one of its own.
            let earlier = clusters.iter().take(index).zip(&service.ports);
            let clash = earlier.into_iter().any(|(other, other_port)| {
                **other == *name
                    && (other_port.endpoints != port.endpoints
                        || other_port.protocol != port.protocol)
            });
            if clash {
                name = format!("{name}|{}", port.port);
            }
            clusters.push(name.into());
        }
        Self { service, clusters }
    }
}

// === impl Grants ===

impl Grants {
    fn new(settings: &MeshSettings, authorizations: &[Arc<Authorization>]) -> Self {
        let mut tcp = RuleList::default();
        let mut http = RuleList::default();
        let mut requests = RuleList::default();
        for authorization in authorizations {
            let principals: Vec<Arc<str>> = authorization
                .sources
                .iter()
                .map(|source| source.spiffe(&settings.trust_domain).into())
                .collect();
            let ports = authorization.tcp.clone().unwrap_or(PortSet::Any);
            let rule = |provenance: &Provenance| Rule {
                name: provenance.to_string().into(),
                principals: principals.clone(),
                ports: ports.clone(),
                http: None,
            };
            if authorization.tcp.is_some() {
                tcp.push(rule(&authorization.provenance));
            }
            http.push(rule(&authorization.provenance));
            for grant in &authorization.http {
                let mut rule = rule(&grant.provenance);
                rule.http = Some(grant.matches.clone());
                requests.push(rule);
            }
        }
        Self {
            tcp: tcp.rules.into(),
            http: http.rules.into(),
            requests: requests.rules.into(),
        }
    }
}

/// Rules with unique names: names are keys of a map later.
#[derive(Default)]
struct RuleList {
    rules: Vec<Rule>,
    seen: HashMap<Arc<str>, usize>,
}

impl RuleList {
    fn push(&mut self, mut rule: Rule) {
        let count = self.seen.entry(rule.name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            rule.name = format!("{} #{count}", rule.name).into();
        }
        self.rules.push(rule);
    }
}
