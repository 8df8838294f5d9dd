//! Pods as workloads, and as the identities behind endpoints.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use api::labels;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use model::{Problem, Provenance, ServiceAccount, Workload};

use crate::index::{Index, Key};

/// What is read of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub uid: Arc<str>,
    pub proxy_uuid: Option<Arc<str>>,
    pub account: Arc<str>,
    pub ips: Vec<IpAddr>,
    pub host_network: bool,
    /// It has ended: its addresses may belong to somebody else by now.
    pub finished: bool,
    pub scraped: bool,
    /// Its sidecar is a stock Envoy, which logs only what it is told to.
    pub told_to_log: bool,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Host name and subdomain, by which a headless service of that name makes it known.
    pub hostname: Option<(Arc<str>, Arc<str>)>,
    /// Names and numbers of TCP ports.
    pub ports: Vec<(Arc<str>, u16)>,
}

impl PodFacts {
    pub(crate) fn new(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let annotation = |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key));
        let account = spec.and_then(|spec| spec.service_account_name.as_deref());
        let phase = status.and_then(|status| status.phase.as_deref());
        let first = status.and_then(|status| status.pod_ip.as_deref());
        let listed = status
            .and_then(|status| status.pod_ips.as_deref())
            .unwrap_or_default();
        let mut ips: Vec<IpAddr> = Vec::new();
        for ip in first
            .into_iter()
            .chain(listed.iter().map(|ip| ip.ip.as_str()))
        {
            if let Ok(ip) = ip.parse()
                && !ips.contains(&ip)
            {
                ips.push(ip);
            }
        }
        Self {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            proxy_uuid: label(labels::PROXY_UUID).map(|uuid| uuid.as_str().into()),
            account: account
                .filter(|name| !name.is_empty())
                .unwrap_or("default")
                .into(),
            ips,
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            labels: metadata
                .labels
                .iter()
                .flatten()
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect(),
            hostname: spec.and_then(|spec| {
                let hostname = spec.hostname.as_deref().filter(|name| !name.is_empty())?;
                Some((hostname.into(), spec.subdomain.as_deref()?.into()))
            }),
            ports: spec.map(named_ports).unwrap_or_default(),
            told_to_log: annotation(labels::SIDECAR_CLASS).is_some_and(|class| class == "envoy"),
            scraped: annotation(labels::PROMETHEUS_SCRAPE).is_some_and(|value| value == "true"),
        }
    }
}

impl PodFacts {
    /// Its host name below `service`, if it has one.
    pub(super) fn hostname_below(&self, service: &str) -> Option<Arc<str>> {
        let (hostname, subdomain) = self.hostname.as_ref()?;
        (**subdomain == *service).then(|| hostname.clone())
    }
}

/// Named TCP ports of all containers, sidecars that start as init containers included.
fn named_ports(spec: &PodSpec) -> Vec<(Arc<str>, u16)> {
    let containers = spec.containers.iter();
    let containers = containers.chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let tcp = ports.filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP")));
    let named = tcp.filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        Some((port.name.as_deref()?.into(), number))
    });
    named.collect()
}

/// Pods with a sidecar.
pub(crate) fn workloads(index: &Index, problems: &mut Vec<Problem>) -> Vec<Workload> {
    let mut by_uuid: HashMap<Arc<str>, Key> = HashMap::new();
    let mut workloads = Vec::new();
    for (key, pod) in index.monitored(&index.pods) {
        let Some(uuid) = pod.proxy_uuid.as_ref().filter(|_| !pod.finished) else {
            continue;
        };
        if let Some((namespace, name)) = by_uuid.insert(uuid.clone(), key.clone()) {
            let message = format!(
                "label {} has the value of pod {namespace}/{name}: neither proxy is served",
                labels::PROXY_UUID
            );
            problems.push(Provenance::new("Pod", &key.0, &key.1).problem(message));
        }
        workloads.push(Workload {
            proxy_uuid: uuid.clone(),
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid: pod.uid.clone(),
            account: ServiceAccount::new(key.0.clone(), pod.account.clone()),
            ips: pod.ips.clone(),
            scraped: pod.scraped,
            told_to_log: pod.told_to_log,
        });
    }
    workloads
}

/// Finds pods by address and by labels.
pub(super) struct PodLookup<'a> {
    index: &'a Index,
    by_ip: HashMap<IpAddr, &'a Key>,
    /// Running pods by namespace and label.
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Key>>,
}

impl<'a> PodLookup<'a> {
    pub(super) fn new(index: &'a Index) -> Self {
        let mut by_ip = HashMap::new();
        let mut by_label: HashMap<_, Vec<_>> = HashMap::new();
        for (key, pod) in index.monitored(&index.pods) {
            if !pod.finished && pod.proxy_uuid.is_some() {
                for (label, value) in &pod.labels {
                    let label = (&*key.0, &**label, &**value);
                    by_label.entry(label).or_default().push(key);
                }
            }
            // An address of the node says nothing about who listens there.
            if !pod.host_network && !pod.finished {
                by_ip.extend(pod.ips.iter().map(|ip| (*ip, key)));
            }
        }
        Self {
            index,
            by_ip,
            by_label,
        }
    }

    /// The pods of `namespace` that carry all these labels. An empty selector selects none.
    pub(super) fn select(
        &self,
        namespace: &str,
        selector: &BTreeMap<Arc<str>, Arc<str>>,
    ) -> Vec<(&'a Arc<str>, &'a PodFacts)> {
        let lists = selector.iter().map(|(label, value)| {
            let list = self.by_label.get(&(namespace, &**label, &**value));
            list.map(Vec::as_slice).unwrap_or_default()
        });
        let shortest = lists.min_by_key(|list| list.len()).unwrap_or_default();
        let carries = |pod: &PodFacts| {
            let mut wanted = selector.iter();
            wanted.all(|(label, value)| pod.labels.get(label) == Some(value))
        };
        let found = shortest.iter().filter_map(|key| {
            let ((_, name), pod) = self.index.pods.get_key_value(*key)?;
            carries(pod).then_some((name, pod))
        });
        found.collect()
    }

    /// The pod that has an address.
    pub(super) fn owner(&self, ip: IpAddr) -> Option<&'a Key> {
        self.by_ip.get(&ip).copied()
    }

    /// The pod of `namespace` that an endpoint names, or else that has the address.
    pub(super) fn find(
        &self,
        namespace: &Arc<str>,
        name: Option<&Arc<str>>,
        ip: IpAddr,
    ) -> Option<(Arc<str>, &'a PodFacts)> {
        let named = name.map(|name| (namespace.clone(), name.clone()));
        if let Some(key) = named
            && let Some(pod) = self.index.pods.get(&key)
        {
            return (!pod.finished && pod.ips.contains(&ip)).then(|| (key.1.clone(), pod));
        }
        let key = self.by_ip.get(&ip).filter(|key| key.0 == *namespace)?;
        let pod = self.index.pods.get(*key)?;
        Some((key.1.clone(), pod))
    }
}
