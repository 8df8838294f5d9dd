//! The embedded cluster's controllers: Deployment, ReplicaSet, StatefulSet, Endpoints, ServiceAccount, namespaces, garbage
//!
//! They know only the Kubernetes API and run against any API server: each controller watches, decides by a pure function
//! and writes. Nothing here knows of nodes, meshes or how the API server stores objects.

mod bootstrap;
mod defaults;
mod deployment;
mod endpoints;
mod event;
mod garbage;
mod key;
mod kinds;
mod namespace;
mod owner;
mod pods;
mod queue;
mod replica_set;
mod stateful_set;
mod template;
mod watch;

use std::fmt::Debug;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::GroupVersionKind;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use self::key::Key;
use self::queue::Queue;
use self::watch::{Store, follow};

/// What the controllers need to know of the cluster they run in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Certificate of the cluster's authority (PEM): content of ConfigMap `kube-root-ca.crt` in every namespace.
    pub root_ca_pem: String,
    /// ClusterIP of the Service `kubernetes` in namespace `default`, the primary one first: made if the server has made none.
    pub api_service_ips: Vec<IpAddr>,
    /// Where that Service leads: addresses and port at which pods reach the API server.
    pub api_endpoints: Vec<SocketAddr>,
}

/// Why the controllers ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the loops ended, which none does unless it is defective.
    #[error("controller {0} ended")]
    Ended(&'static str),
}

/// Runs every controller until the future is dropped.
pub async fn run(client: Client, config: Config) -> Result<(), Error> {
    let mut loops = Loops {
        client: client.clone(),
        tasks: JoinSet::new(),
    };
    let seen = Stores::new(slices_known(&client).await);
    loops.workloads(&seen);
    loops.endpoints(&seen);
    loops.namespaces(&seen, config.root_ca_pem.clone());
    loops.start("garbage", garbage::run(client.clone()));
    loops.start("bootstrap", bootstrap::run(client, config));
    match loops.tasks.join_next().await {
        Some(Ok(name)) => Err(Error::Ended(name)),
        _ => Err(Error::Ended("(panicked)")),
    }
}

async fn slices_known(client: &Client) -> bool {
    key::patiently(|| kinds::discover(client)).await;
    kinds::knows(
        client,
        &GroupVersionKind::gvk("discovery.k8s.io", "v1", "EndpointSlice"),
    )
    .await
}

/// What several controllers look at.
struct Stores {
    namespaces: Arc<Store<Namespace>>,
    deployments: Arc<Store<Deployment>>,
    sets: Arc<Store<ReplicaSet>>,
    stateful: Arc<Store<StatefulSet>>,
    pods: Arc<Store<Pod>>,
    services: Arc<Store<Service>>,
    slices: Option<Arc<Store<EndpointSlice>>>,
    endpoints_queue: Arc<Queue<Key>>,
    sets_queue: Arc<Queue<Key>>,
    stateful_queue: Arc<Queue<Key>>,
    deployments_queue: Arc<Queue<Key>>,
}

/// The loops that run, each ending only with all of them.
struct Loops {
    client: Client,
    tasks: JoinSet<&'static str>,
}

// === impl Stores ===

impl Stores {
    fn new(slices: bool) -> Self {
        Self {
            namespaces: Store::new(),
            deployments: Store::new(),
            sets: Store::new(),
            stateful: Store::new(),
            pods: Store::new(),
            services: Store::new(),
            slices: slices.then(Store::new),
            endpoints_queue: Queue::new(),
            sets_queue: Queue::new(),
            stateful_queue: Queue::new(),
            deployments_queue: Queue::new(),
        }
    }
}

// === impl Loops ===

impl Loops {
    fn start(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    fn follow<K, F>(
        &mut self,
        name: &'static str,
        store: &Arc<Store<K>>,
        fields: Option<&str>,
        changed: F,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        F: Fn(Option<&K>, Option<&K>) + Send + 'static,
    {
        let mut config = watcher::Config::default();
        if let Some(fields) = fields {
            config = config.fields(fields);
        }
        self.start(
            name,
            follow(
                Api::all(self.client.clone()),
                config,
                store.clone(),
                changed,
            ),
        );
    }

    /// Deployments, ReplicaSets and StatefulSets, and what a change of a pod means to all controllers.
    fn workloads(&mut self, seen: &Stores) {
        let (deployments, sets) = (seen.deployments_queue.clone(), seen.sets_queue.clone());
        let queue = deployments.clone();
        self.follow(
            "watch deployments",
            &seen.deployments,
            None,
            move |_, after| {
                after
                    .into_iter()
                    .for_each(|deployment| queue.add(Key::of(deployment)));
            },
        );
        let (queue, owners, own) = (deployments.clone(), seen.deployments.clone(), sets.clone());
        self.follow(
            "watch replicasets",
            &seen.sets,
            None,
            move |before, after| {
                deployment::set_changed(&queue, &owners, before, after);
                after.into_iter().for_each(|set| own.add(Key::of(set)));
            },
        );
        let (queue, stateful) = (seen.stateful_queue.clone(), seen.stateful.clone());
        let to_stateful = queue.clone();
        self.follow(
            "watch statefulsets",
            &seen.stateful,
            None,
            move |_, after| after.into_iter().for_each(|set| queue.add(Key::of(set))),
        );
        let (to_sets, to_deployments, to_endpoints) = (
            sets.clone(),
            deployments.clone(),
            seen.endpoints_queue.clone(),
        );
        let (stored_sets, services) = (seen.sets.clone(), seen.services.clone());
        self.follow("watch pods", &seen.pods, None, move |before, after| {
            replica_set::pod_changed(&to_sets, &stored_sets, before, after);
            stateful_set::pod_changed(&to_stateful, &stateful, before, after);
            endpoints::pod_changed(&to_endpoints, &services, before, after);
            if let (Some(pod), None) = (before, after) {
                deployment::pod_gone(&to_deployments, &stored_sets, pod);
            }
        });
        self.start("replicaset", replica_set::run(self.client.clone(), sets));
        let queue = seen.stateful_queue.clone();
        self.start("statefulset", stateful_set::run(self.client.clone(), queue));
        self.start(
            "deployment",
            deployment::run(self.client.clone(), deployments),
        );
    }

    fn endpoints(&mut self, seen: &Stores) {
        let store = Store::<Endpoints>::new();
        let queue = seen.endpoints_queue.clone();
        let to = queue.clone();
        self.follow(
            "watch services",
            &seen.services,
            None,
            move |before, after| {
                before
                    .or(after)
                    .into_iter()
                    .for_each(|service| to.add(Key::of(service)));
            },
        );
        let (to, services) = (queue.clone(), seen.services.clone());
        self.follow("watch endpoints", &store, None, move |before, after| {
            // Endpoints without a Service belong to whoever made them.
            let key = before.or(after).map(Key::of);
            key.filter(|key| services.get(key).is_some())
                .into_iter()
                .for_each(|key| to.add(key));
        });
        if let Some(slices) = &seen.slices {
            let to = queue.clone();
            self.follow(
                "watch endpointslices",
                slices,
                None,
                move |before, after| endpoints::slice_changed(&to, before, after),
            );
        }
        let seen = endpoints::Seen {
            services: seen.services.clone(),
            pods: seen.pods.clone(),
            endpoints: store,
            slices: seen.slices.clone(),
        };
        self.start(
            "endpoints",
            endpoints::run(self.client.clone(), Arc::new(seen), queue),
        );
    }

    /// What every namespace has, and its end.
    fn namespaces(&mut self, seen: &Stores, root_ca_pem: String) {
        let (defaults, ends) = (Queue::new(), Queue::new());
        let (to_defaults, to_ends) = (defaults.clone(), ends.clone());
        self.follow(
            "watch namespaces",
            &seen.namespaces,
            None,
            move |_, after| {
                if let Some(namespace) = after {
                    if namespace::ends(namespace) {
                        to_ends.add(Key::of(namespace));
                    }
                    to_defaults.add(Key::of(namespace));
                }
            },
        );
        let (accounts, root_cas) = (Store::<ServiceAccount>::new(), Store::<ConfigMap>::new());
        let again = |queue: Arc<Queue<Key>>| {
            move |key: Option<Key>| {
                key.into_iter()
                    .for_each(|key| queue.add(Key::new("", key.namespace)))
            }
        };
        let to = again(defaults.clone());
        let field = format!("metadata.name={}", defaults::SERVICE_ACCOUNT);
        self.follow(
            "watch serviceaccounts",
            &accounts,
            Some(&field),
            move |before, after| to(before.or(after).map(Key::of)),
        );
        let to = again(defaults.clone());
        let field = format!("metadata.name={}", defaults::ROOT_CA);
        self.follow(
            "watch configmaps",
            &root_cas,
            Some(&field),
            move |before, after| to(before.or(after).map(Key::of)),
        );
        let seen_defaults = defaults::Seen {
            namespaces: seen.namespaces.clone(),
            accounts,
            root_cas,
        };
        self.start(
            "namespace-defaults",
            defaults::run(
                self.client.clone(),
                Arc::new(seen_defaults),
                root_ca_pem,
                defaults,
            ),
        );
        self.start(
            "namespace",
            namespace::run(self.client.clone(), seen.namespaces.clone(), ends),
        );
    }
}
