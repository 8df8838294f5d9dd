//! IngressBackend policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use api::policy::v1alpha1::{BackendSpec, IngressBackendSpec, IngressSource};
use ipnet::IpNet;
use model::{IngressClients, IngressRule, IngressTls, Problem, Provenance};

use crate::{
    core::{PortFacts, Target},
    index::{Index, Key},
    object::Kind,
    status::{Outcome, Statuses},
};

/// A port that a policy has opened already, and which.
pub(crate) type Opened<'a> = BTreeMap<(&'a str, &'a str, u16), &'a Key>;

/// What the valid IngressBackends of monitored namespaces open, unless the feature is off. The outcome of
/// each is told in its status.
pub(crate) fn ingress_rules(
    index: &Index,
    problems: &mut Vec<Problem>,
    statuses: &mut Statuses,
) -> Vec<IngressRule> {
    let flags = index
        .mesh_config
        .as_ref()
        .map(|config| &config.feature_flags);
    if !flags.is_some_and(|flags| flags.enable_ingress_backend_policy) {
        return Vec::new();
    }
    let mut rules = Vec::new();
    let mut opened = Opened::new();
    for (key, spec) in index.monitored(&index.ingress_backends) {
        let outcome = match ingress_object(index, key, spec, &mut opened, problems) {
            Ok(made) => {
                rules.extend(made);
                Outcome::Committed
            }
            Err(problem) => {
                let outcome = Outcome::without_effect(&problem);
                problems.push(problem);
                outcome
            }
        };
        statuses.insert((Kind::IngressBackend, key.clone()), outcome);
    }
    rules
}

/// The rules of one object. An error voids all of it: half an object would open what its author did not see
/// as a whole.
pub(crate) fn ingress_object<'a>(
    index: &Index,
    key: &'a Key,
    spec: &'a IngressBackendSpec,
    opened: &mut Opened<'a>,
    problems: &mut Vec<Problem>,
) -> Result<Vec<IngressRule>, Problem> {
    let provenance = Provenance::new("IngressBackend", &key.0, &key.1);
    let void = |message: String| provenance.void(message);
    if !spec.matches.is_empty() {
        // Upstream accepts and ignores them; whoever wrote them wanted less to be open.
        return Err(provenance.void("matches is not supported"));
    }
    if spec.backends.is_empty() {
        return Err(provenance.void("backends is empty: nothing is opened"));
    }
    let clients = Clients::new(index, spec).map_err(void)?;
    let mut rules = Vec::new();
    let mut ports = Vec::new();
    for backend in &spec.backends {
        let port = (key.0.as_ref(), backend.name.as_str(), backend.port.number);
        if let Some(other) = opened.get(&port) {
            let (name, number) = (&backend.name, backend.port.number);
            return Err(provenance.conflict(format!(
                "backend {name} port {number} conflicts with IngressBackend {}/{}",
                other.0, other.1
            )));
        }
        ports.push(port);
        report_backend(index, key, backend, &provenance, problems);
        rules.push(IngressRule {
            provenance: provenance.rule(format!("backend {}", backend.name)),
            namespace: key.0.clone(),
            service: backend.name.as_str().into(),
            port: backend.port.number,
            sources: clients.networks.clone(),
            tls: tls(backend, &clients).map_err(void)?,
        });
    }
    opened.extend(ports.into_iter().map(|port| (port, key)));
    Ok(rules)
}

/// Reports a backend that opens nothing: its number is that of the pods' port, not of the Service's (ING-09).
fn report_backend(
    index: &Index,
    key: &Key,
    backend: &BackendSpec,
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) {
    let provenance = provenance.rule(format!("backend {}", backend.name));
    let service: Key = (key.0.clone(), backend.name.as_str().into());
    let Some(facts) = index.services.get(&service) else {
        problems.push(provenance.problem("the Service does not exist: nothing is opened"));
        return;
    };
    let number = backend.port.number;
    let leads = |port: &PortFacts| match &port.target {
        Target::Number(target) => *target == number,
        // Which number that is depends on the pod.
        Target::Name(_) => true,
    };
    if !facts.ports.iter().any(leads) {
        let message = format!(
            "no port of the Service has the targetPort {number}, which port.number means: nothing is opened"
        );
        problems.push(provenance.problem(message));
    }
}

/// The sources of an object.
struct Clients {
    /// `None` = any.
    networks: Option<BTreeSet<IpNet>>,
    principals: BTreeSet<Arc<str>>,
}

impl Clients {
    fn new(index: &Index, spec: &IngressBackendSpec) -> Result<Self, String> {
        let mut networks: Option<BTreeSet<IpNet>> = None;
        let mut principals = BTreeSet::new();
        for source in &spec.sources {
            match source.kind.as_str() {
                "Service" => {
                    let addresses = endpoints(index, source)?;
                    networks.get_or_insert_default().extend(addresses);
                }
                "IPRange" => {
                    let network = source.name.parse::<IpNet>().map_err(|_| {
                        format!("Invalid 'source.name' value specified for IPRange. Expected CIDR notation 'a.b.c.d/x', got '{}'", source.name)
                    })?;
                    networks.get_or_insert_default().insert(network.trunc());
                }
                "AuthenticatedPrincipal" if source.name.is_empty() => {
                    return Err(
                        "'source.name' not specified for source kind AuthenticatedPrincipal"
                            .to_owned(),
                    );
                }
                "AuthenticatedPrincipal" => {
                    principals.insert(source.name.as_str().into());
                }
                other => {
                    return Err(format!(
                        "Invalid 'source.kind' value specified. Must be one of: Service, AuthenticatedPrincipal, IPRange, got {other:?}"
                    ));
                }
            }
        }
        Ok(Self {
            networks,
            principals,
        })
    }
}

/// The pods behind a source Service now. A Service without any admits nobody, which must not come to mean
/// anybody: the whole object waits for them.
fn endpoints(index: &Index, source: &IngressSource) -> Result<BTreeSet<IpNet>, String> {
    let (namespace, name) = (source.namespace.as_str(), source.name.as_str());
    let key: Key = (namespace.into(), name.into());
    let known = index
        .endpoints
        .get(&key)
        .filter(|_| index.monitors(namespace));
    let subsets = known.map_or(&[][..], |endpoints| &endpoints.subsets);
    let ready = subsets.iter().flat_map(|subset| &subset.addresses);
    let addresses: BTreeSet<IpNet> = ready
        .filter(|address| address.ready)
        .map(|address| host(address.ip))
        .collect();
    if addresses.is_empty() {
        return Err(format!(
            "endpoints not found for service {namespace}/{name}"
        ));
    }
    Ok(addresses)
}

fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn tls(backend: &BackendSpec, clients: &Clients) -> Result<Option<IngressTls>, String> {
    let asked = backend.tls.as_ref();
    let protocol = &backend.port.protocol;
    match protocol.to_ascii_lowercase().as_str() {
        "http" | "grpc" => return Ok(None),
        "https" => {}
        _ => {
            return Err(format!(
                "Expected 'port.protocol' to be 'http', 'https' or 'grpc', got: {protocol}"
            ));
        }
    }
    let principals = &clients.principals;
    let clients = if asked.is_some_and(|tls| tls.skip_client_cert_validation) {
        IngressClients::Anyone
    } else if principals.is_empty() {
        // Upstream lets in every certificate of the mesh then, workloads' included.
        return Err("HTTPS ingress with client certificate validation enabled must specify at least one 'AuthenticatedPrincipal` source".to_owned());
    } else if principals.iter().any(|name| **name == *"*") {
        IngressClients::Verified
    } else {
        IngressClients::Named(principals.clone())
    };
    let names = asked.map_or(&[][..], |tls| &tls.sni_hosts);
    Ok(Some(IngressTls {
        server_names: names
            .iter()
            .map(|name| name.to_ascii_lowercase().into())
            .collect(),
        clients,
    }))
}
