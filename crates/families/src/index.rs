//! Objects by key, and the mesh they make.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    access::v1alpha3::TrafficTargetSpec,
    config::v1alpha2::MeshConfigSpec,
    labels,
    policy::v1alpha1::{EgressSpec, IngressBackendSpec, RetrySpec, UpstreamTrafficSettingSpec},
    specs::v1alpha4::{HTTPRouteGroupSpec, TCPRouteSpec},
    split::v1alpha4::TrafficSplitSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{Mesh, MeshParts, Problem, Provenance};

use crate::{
    core::{self, EndpointsFacts, PodFacts, ServiceFacts},
    object::{Kind, Object},
    osm, smi,
    status::{self, Statuses},
};

/// What the index must know beside objects.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the mesh: namespaces labelled with it belong to it.
    pub mesh_name: String,
    /// Namespace of the control plane and of the MeshConfig.
    pub osm_namespace: String,
    /// Trust domain of all identities.
    pub trust_domain: String,
}

/// The objects of one cluster that matter to one mesh. Only what is read of them is kept.
#[derive(Debug)]
pub struct Index {
    pub(crate) settings: Settings,
    mesh_config_name: String,
    pub(crate) namespaces: BTreeMap<String, bool>,
    pub(crate) pods: Store<PodFacts>,
    pub(crate) services: Store<ServiceFacts>,
    pub(crate) endpoints: Store<EndpointsFacts>,
    pub(crate) mesh_config: Option<MeshConfigSpec>,
    pub(crate) egresses: Store<EgressSpec>,
    pub(crate) ingress_backends: Store<IngressBackendSpec>,
    pub(crate) retries: Store<RetrySpec>,
    pub(crate) upstream_settings: Store<UpstreamTrafficSettingSpec>,
    pub(crate) route_groups: Store<HTTPRouteGroupSpec>,
    /// What is wrong with groups by themselves, found once as they come: regular expressions are costly to check.
    group_problems: Store<Vec<Problem>>,
    pub(crate) tcp_routes: Store<TCPRouteSpec>,
    pub(crate) traffic_targets: Store<TrafficTargetSpec>,
    pub(crate) splits: Store<TrafficSplitSpec>,
}

/// What the objects of one moment amount to.
#[derive(Debug)]
pub struct Built {
    /// The mesh.
    pub mesh: Mesh,
    /// What users wrote and cannot take effect, in a stable order.
    pub problems: Vec<Problem>,
    /// What is to stand in the status of objects.
    pub statuses: Statuses,
}

/// Objects of one kind by namespace and name.
pub(crate) type Store<T> = BTreeMap<Key, T>;

/// Namespace and name.
pub type Key = (Arc<str>, Arc<str>);

// === impl Index ===

impl Index {
    /// An index without objects: nothing is allowed.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            mesh_config_name: labels::MESH_CONFIG_NAME.to_owned(),
            namespaces: BTreeMap::new(),
            pods: Store::new(),
            services: Store::new(),
            endpoints: Store::new(),
            mesh_config: None,
            egresses: Store::new(),
            ingress_backends: Store::new(),
            retries: Store::new(),
            upstream_settings: Store::new(),
            route_groups: Store::new(),
            group_problems: Store::new(),
            tcp_routes: Store::new(),
            traffic_targets: Store::new(),
            splits: Store::new(),
        }
    }

    /// Reads the MeshConfig of this name instead of the usual one (flag `--osm-config-name`).
    pub fn with_mesh_config_name(mut self, name: impl Into<String>) -> Self {
        self.mesh_config_name = name.into();
        self
    }

    /// Takes an object as it is now. Says whether anything changed that the mesh depends on.
    pub fn apply(&mut self, object: Object) -> bool {
        match object {
            Object::Namespace(object) => {
                let name = object.metadata.name.clone().unwrap_or_default();
                let monitored = core::is_monitored(&object, &self.settings.mesh_name);
                self.namespaces.insert(name, monitored) != Some(monitored)
            }
            Object::Pod(object) => put(&mut self.pods, &object.metadata, PodFacts::new(&object)),
            Object::Service(object) => {
                let facts = ServiceFacts::new(&object);
                put(&mut self.services, &object.metadata, facts)
            }
            Object::Endpoints(object) => {
                let facts = EndpointsFacts::new(&object);
                put(&mut self.endpoints, &object.metadata, facts)
            }
            // Identities are named by pods and policies; the account object itself says nothing.
            Object::ServiceAccount(_) => false,
            Object::MeshConfig(object) => {
                if !self.is_mesh_config(&object.metadata) {
                    return false;
                }
                let changed = self.mesh_config.as_ref() != Some(&object.spec);
                self.mesh_config = Some(object.spec);
                changed
            }
            Object::Egress(object) => put(&mut self.egresses, &object.metadata, object.spec),
            Object::IngressBackend(object) => {
                put(&mut self.ingress_backends, &object.metadata, object.spec)
            }
            Object::Retry(object) => put(&mut self.retries, &object.metadata, object.spec),
            Object::UpstreamTrafficSetting(object) => {
                put(&mut self.upstream_settings, &object.metadata, object.spec)
            }
            Object::HttpRouteGroup(object) => {
                let mut problems = Vec::new();
                let key = key(&object.metadata);
                smi::check_group(&key, &object.spec, &mut problems);
                let changed = put(&mut self.route_groups, &object.metadata, object.spec);
                if problems.is_empty() {
                    self.group_problems.remove(&key);
                } else {
                    self.group_problems.insert(key, problems);
                }
                changed
            }
            Object::TcpRoute(object) => put(&mut self.tcp_routes, &object.metadata, object.spec),
            Object::TrafficTarget(object) => {
                put(&mut self.traffic_targets, &object.metadata, object.spec)
            }
            Object::TrafficSplit(object) => put(&mut self.splits, &object.metadata, object.spec),
        }
    }

    /// Forgets an object. Says whether the mesh depended on it.
    pub fn remove(&mut self, kind: Kind, namespace: &str, name: &str) -> bool {
        let key: Key = (namespace.into(), name.into());
        match kind {
            Kind::Namespace => self.namespaces.remove(name).is_some(),
            Kind::Pod => self.pods.remove(&key).is_some(),
            Kind::Service => self.services.remove(&key).is_some(),
            Kind::Endpoints => self.endpoints.remove(&key).is_some(),
            Kind::ServiceAccount => false,
            Kind::MeshConfig => {
                let named =
                    namespace == self.settings.osm_namespace && name == self.mesh_config_name;
                named && self.mesh_config.take().is_some()
            }
            Kind::Egress => self.egresses.remove(&key).is_some(),
            Kind::IngressBackend => self.ingress_backends.remove(&key).is_some(),
            Kind::Retry => self.retries.remove(&key).is_some(),
            Kind::UpstreamTrafficSetting => self.upstream_settings.remove(&key).is_some(),
            Kind::HttpRouteGroup => {
                self.group_problems.remove(&key);
                self.route_groups.remove(&key).is_some()
            }
            Kind::TcpRoute => self.tcp_routes.remove(&key).is_some(),
            Kind::TrafficTarget => self.traffic_targets.remove(&key).is_some(),
            Kind::TrafficSplit => self.splits.remove(&key).is_some(),
        }
    }

    /// The mesh that the objects make.
    pub fn mesh(&self) -> Mesh {
        self.build().mesh
    }

    /// What users wrote and cannot take effect, in a stable order.
    pub fn problems(&self) -> Vec<Problem> {
        self.build().problems
    }

    /// Everything in one pass.
    pub fn build(&self) -> Built {
        let mut problems = Vec::new();
        let mut statuses = Statuses::new();
        let settings = osm::mesh_settings(self, self.mesh_config.as_ref(), &mut problems);
        let parts = MeshParts {
            services: core::services(self, &mut problems),
            workloads: core::workloads(self, &mut problems),
            authorizations: smi::authorizations(self, &mut problems),
            splits: smi::splits(self, &mut problems),
            egress: osm::egress_rules(self, &mut problems),
            ingress: osm::ingress_rules(self, &mut problems, &mut statuses),
            upstream_settings: osm::upstream_settings(self, &mut problems, &mut statuses),
            retries: osm::retry_rules(self, &mut problems),
            settings,
        };
        let of_groups = self.monitored(&self.group_problems);
        problems.extend(of_groups.flat_map(|(_, problems)| problems.iter().cloned()));
        for (key, route) in self.monitored(&self.tcp_routes) {
            smi::check_route(key, route, &mut problems);
        }
        problems.sort();
        problems.dedup();
        status::complete(self, &problems, &mut statuses);
        Built {
            mesh: Mesh::new(parts),
            problems,
            statuses,
        }
    }

    /// Whether objects of `namespace` belong to the mesh.
    pub fn monitors(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).copied().unwrap_or(false)
    }

    /// The objects of a kind that are in monitored namespaces.
    pub(crate) fn monitored<'a, T>(
        &'a self,
        store: &'a Store<T>,
    ) -> impl Iterator<Item = (&'a Key, &'a T)> {
        store
            .iter()
            .filter(|((namespace, _), _)| self.monitors(namespace))
    }

    pub(crate) fn mesh_config_provenance(&self) -> Provenance {
        let namespace = &self.settings.osm_namespace;
        Provenance::new("MeshConfig", namespace, &self.mesh_config_name)
    }

    fn is_mesh_config(&self, metadata: &ObjectMeta) -> bool {
        metadata.namespace.as_deref() == Some(&self.settings.osm_namespace)
            && metadata.name.as_deref() == Some(&self.mesh_config_name)
    }
}

/// Namespace and name of an object.
pub(crate) fn key(metadata: &ObjectMeta) -> Key {
    (
        metadata.namespace.as_deref().unwrap_or_default().into(),
        metadata.name.as_deref().unwrap_or_default().into(),
    )
}

fn put<T: PartialEq>(store: &mut Store<T>, metadata: &ObjectMeta, value: T) -> bool {
    let key = key(metadata);
    match store.get_mut(&key) {
        Some(known) if *known == value => false,
        Some(known) => {
            *known = value;
            true
        }
        None => {
            store.insert(key, value);
            true
        }
    }
}
