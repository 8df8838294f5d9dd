//! The node: follows the API's pods and keeps its own object, DNS and Service rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Binding, Endpoints, Namespace, Node as ApiNode, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;

use crate::NodeConfig;
use crate::catalog::Catalog;
use crate::dns::Dns;
use crate::events::Events;
use crate::network::Network;
use crate::pod::facts::memory_bytes;
use crate::pod::{PodTask, Shared};
use crate::services::balance;

/// How often the node says that it lives; Kubernetes' default for its status.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// How many pods a node of this address plan takes (a kubelet's default).
const MOST_PODS: u32 = 110;
/// Port of the DNS server.
const DNS_PORT: u16 = 53;

/// The node of the embedded cluster.
pub struct Node {
    config: NodeConfig,
    netns_dir: PathBuf,
    pods: Arc<Mutex<BTreeMap<String, Arc<PodTask>>>>,
    shared: OnceLock<Arc<Shared>>,
    ready: watch::Sender<bool>,
}

// === impl Node ===

impl Node {
    /// A node that runs nothing yet.
    pub fn new(config: NodeConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            netns_dir: PathBuf::from("/run/netns"),
            pods: Arc::default(),
            shared: OnceLock::new(),
            ready: watch::Sender::new(false),
        })
    }

    /// The pod with this uid, if it is here.
    pub(crate) fn pod(&self, uid: &str) -> Option<Arc<PodTask>> {
        self.pods.lock().get(uid).cloned()
    }

    /// What the node's parts share, once it runs.
    pub(crate) fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.get()
    }

    /// Prepares the node's network: addresses, routes, forwarding. Needed before anything can listen on the node's addresses.
    pub async fn start_network(&self) -> anyhow::Result<Network> {
        Network::start(self.config.clone(), self.netns_dir.clone())
            .await
            .context("the node's network")
    }

    /// Turns true when the node is Ready.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Runs pods, Services and DNS until the future is dropped.
    pub async fn run(self: Arc<Self>, client: Client, network: Network) -> anyhow::Result<()> {
        let (events, write_events) = Events::new(client.clone(), self.config.name.clone());
        let catalog = Arc::new(Catalog::default());
        let shared = Arc::new(Shared {
            config: self.config.clone(),
            client: client.clone(),
            network,
            catalog: catalog.clone(),
            config_maps: Default::default(),
            secrets: Default::default(),
            events,
        });
        let _ = self.shared.set(shared.clone());
        let dns = Dns::new(&self.config.cluster_domain, catalog.clone());
        let addresses: Vec<_> = self
            .config
            .addresses
            .iter()
            .chain([&self.config.dns_address])
            .map(|a| SocketAddr::new(*a, DNS_PORT))
            .collect();
        let loaded = watch::Sender::new(0);
        let loads = loaded.subscribe();
        let everything = || watcher::Config::default();
        tokio::select! {
            () = write_events => {}
            () = catalog.services.follow(Api::all(client.clone()), everything()) => {}
            () = catalog.endpoints.follow(Api::all(client.clone()), everything()) => {}
            () = catalog.slices.follow(Api::all(client.clone()), everything()) => {}
            () = shared.config_maps.follow(Api::all(client.clone()), everything()) => {}
            () = shared.secrets.follow(Api::all(client.clone()), everything()) => {}
            () = balance(&self.config, &catalog, loaded) => {}
            () = dns.follow_hosts(&shared.config_maps) => {}
            served = dns.serve(&addresses) => served.context("cluster DNS")?,
            run = self.run_pods(&shared, loads) => run?,
        }
        anyhow::bail!("a loop of node {} ended", self.config.name)
    }

    async fn run_pods(
        &self,
        shared: &Arc<Shared>,
        mut loads: watch::Receiver<u64>,
    ) -> anyhow::Result<()> {
        self.create_dns_service(&shared.client).await?;
        self.register(&shared.client).await?;
        // Pods started earlier would find Services that lead nowhere.
        let _ = loads.wait_for(|n| *n > 0).await;
        self.report(&shared.client).await?;
        self.ready.send_replace(true);
        tokio::select! {
            () = self.follow_pods(shared) => anyhow::bail!("the watch of pods ended"),
            result = self.heartbeat(&shared.client) => result,
        }
    }

    /// Follows all pods: binds those without a node, runs ours.
    async fn follow_pods(&self, shared: &Arc<Shared>) {
        let api: Api<Pod> = Api::all(shared.client.clone());
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pod)) => {
                    listed.extend(pod.uid());
                    self.seen(shared, pod);
                }
                Ok(watcher::Event::InitDone) => {
                    let missing: Vec<_> = self
                        .pods
                        .lock()
                        .iter()
                        .filter(|(uid, _)| !listed.contains(*uid))
                        .map(|(_, t)| t.clone())
                        .collect();
                    missing
                        .into_iter()
                        .for_each(|task| task.update(task.pod(), true));
                }
                Ok(watcher::Event::Apply(pod)) => self.seen(shared, pod),
                Ok(watcher::Event::Delete(pod)) => {
                    if let Some(task) = self.pod(&pod.uid().unwrap_or_default()) {
                        task.update(Arc::new(pod), true);
                    }
                }
                Err(error) => tracing::debug!(%error, "watch of pods interrupted"),
            }
        }
    }

    fn seen(&self, shared: &Arc<Shared>, pod: Pod) {
        let Some(uid) = pod.uid() else { return };
        match pod
            .spec
            .as_ref()
            .and_then(|s| s.node_name.as_deref())
            .filter(|n| !n.is_empty())
        {
            None => {
                let ours = pod
                    .spec
                    .as_ref()
                    .and_then(|s| s.scheduler_name.as_deref())
                    .is_none_or(|n| n == "default-scheduler");
                let gated = pod
                    .spec
                    .as_ref()
                    .and_then(|s| s.scheduling_gates.as_ref())
                    .is_some_and(|g| !g.is_empty());
                if ours && !gated && pod.metadata.deletion_timestamp.is_none() {
                    tokio::spawn(bind(shared.clone(), pod));
                }
            }
            Some(name) if name == self.config.name => {
                let pod = Arc::new(pod);
                let mut pods = self.pods.lock();
                if let Some(task) = pods.get(&uid) {
                    task.update(pod, false);
                    return;
                }
                let task = PodTask::new(shared.clone(), pod);
                pods.insert(uid.clone(), task.clone());
                drop(pods);
                let pods = self.pods.clone();
                tokio::spawn(async move {
                    task.run().await;
                    pods.lock().remove(&uid);
                });
            }
            Some(_) => {}
        }
    }

    async fn heartbeat(&self, client: &Client) -> anyhow::Result<()> {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            if let Err(error) = self.report(client).await {
                tracing::warn!(error = format!("{error:#}"), "heartbeat failed");
            }
        }
    }

    /// Makes the Node object.
    async fn register(&self, client: &Client) -> anyhow::Result<()> {
        let api: Api<ApiNode> = Api::all(client.clone());
        let labels = json!({
            "kubernetes.io/hostname": self.config.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture(),
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": architecture(),
            "node-role.kubernetes.io/control-plane": "",
        });
        let pod_cidrs: Vec<_> = self
            .config
            .pod_cidrs
            .iter()
            .map(ToString::to_string)
            .collect();
        let node = serde_json::from_value(json!({
            "metadata": {"name": self.config.name, "labels": labels},
            "spec": {"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs}
        }))?;
        match api.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
            other => other
                .map(drop)
                .with_context(|| format!("node {} could not be registered", self.config.name)),
        }
    }

    /// Writes the Node's status.
    async fn report(&self, client: &Client) -> anyhow::Result<()> {
        let api: Api<ApiNode> = Api::all(client.clone());
        let before = api
            .get_status(&self.config.name)
            .await?
            .status
            .unwrap_or_default();
        let now = Time(Timestamp::now());
        let condition = |kind: &str, value: &str, reason: &str, message: &str| {
            let since = before
                .conditions
                .iter()
                .flatten()
                .find(|c| c.type_ == kind && c.status == value);
            let since = since
                .and_then(|c| c.last_transition_time.clone())
                .unwrap_or_else(|| now.clone());
            json!({"type": kind, "status": value, "reason": reason, "message": message,
                   "lastHeartbeatTime": now, "lastTransitionTime": since})
        };
        let cpus = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .to_string();
        let memory = format!("{}Ki", memory_bytes() / 1024);
        let resources = json!({"cpu": cpus, "memory": memory, "pods": MOST_PODS.to_string(), "ephemeral-storage": "10Gi"});
        let addresses = self
            .config
            .addresses
            .iter()
            .map(|a| json!({"type": "InternalIP", "address": a.to_string()}));
        let addresses: Vec<_> = addresses
            .chain([json!({"type": "Hostname", "address": self.config.name})])
            .collect();
        let status = json!({"status": {
            "capacity": resources, "allocatable": resources, "addresses": addresses,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("Ready", "True", "KubeletReady", "the node's network, Services and DNS work"),
            ],
            "nodeInfo": {
                "architecture": architecture(), "operatingSystem": "linux", "osImage": os_image(),
                "kernelVersion": file_line("/proc/sys/kernel/osrelease"), "machineID": self.config.name, "systemUUID": self.config.name,
                "bootID": file_line("/proc/sys/kernel/random/boot_id"), "containerRuntimeVersion": concat!("osm-local://", env!("CARGO_PKG_VERSION")),
                "kubeletVersion": concat!("v1.33.0-osm-local-", env!("CARGO_PKG_VERSION")), "kubeProxyVersion": "",
            },
        }});
        api.patch_status(
            &self.config.name,
            &PatchParams::default(),
            &Patch::Merge(&status),
        )
        .await?;
        Ok(())
    }

    /// The Service under which users find the cluster DNS.
    async fn create_dns_service(&self, client: &Client) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = serde_json::from_value(json!({"metadata": {"name": "kube-system"}}))?;
        ignore_existing(namespaces.create(&PostParams::default(), &namespace).await)?;
        let ports = |extra: serde_json::Value| {
            ["UDP", "TCP"].map(|protocol| {
                let name = if protocol == "UDP" { "dns" } else { "dns-tcp" };
                let mut port = json!({"name": name, "port": DNS_PORT, "protocol": protocol});
                if let (Some(port), Some(extra)) = (port.as_object_mut(), extra.as_object()) {
                    port.extend(extra.clone());
                }
                port
            })
        };
        let metadata = json!({"name": "kube-dns", "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}});
        let service: Service = serde_json::from_value(json!({
            "metadata": metadata,
            "spec": {"clusterIP": self.config.dns_address, "ipFamilyPolicy": "SingleStack", "ports": ports(json!({"targetPort": DNS_PORT}))}
        }))?;
        let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
        // Looked for first: a second create would be refused for its address before its name is looked at.
        if services.get_opt("kube-dns").await?.is_none() {
            ignore_existing(services.create(&PostParams::default(), &service).await)?;
        }
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": metadata,
            "subsets": [{"addresses": [{"ip": self.config.ipv4(), "nodeName": self.config.name}], "ports": ports(json!({}))}]
        }))?;
        let api: Api<Endpoints> = Api::namespaced(client.clone(), "kube-system");
        ignore_existing(api.create(&PostParams::default(), &endpoints).await)
    }
}

fn ignore_existing<T>(result: kube::Result<T>) -> anyhow::Result<()> {
    match result {
        Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
        other => other
            .map(drop)
            .context("the cluster's DNS Service could not be made"),
    }
}

/// Gives a pod to this node: the scheduler of a cluster with one node.
async fn bind(shared: Arc<Shared>, pod: Pod) {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let node = &shared.config.name;
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), &namespace);
    let binding = Binding {
        metadata: kube::api::ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            uid: pod.uid(),
            ..Default::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.clone()),
            ..ObjectReference::default()
        },
    };
    match api
        .create_subresource::<_, serde_json::Value>(
            "binding",
            &name,
            &PostParams::default(),
            &binding,
        )
        .await
    {
        Ok(_) => shared.events.normal(
            &pod,
            "Scheduled",
            format!("Successfully assigned {namespace}/{name} to {node}"),
        ),
        // Bound already, or gone.
        Err(kube::Error::Api(answer)) if answer.code == 409 || answer.code == 404 => {}
        Err(error) => shared
            .events
            .warning(&pod, "FailedScheduling", format!("{node}: {error}")),
    }
}

/// Kubernetes' word for the machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |n| n.trim_matches('"').to_owned())
}

fn file_line(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}
