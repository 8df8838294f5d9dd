//! What would become of one object if it were written now: for the words its author gets at once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{Extent, Problem};

use crate::{
    index::{Index, Key, key},
    object::{Kind, Object},
    osm::{self, Opened},
    smi,
};

/// What would become of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Another object came first, for these reasons: all of this one would be void.
    pub conflicts: Vec<String>,
    /// What would have no effect, now at least: what is missing may come.
    pub problems: Vec<Problem>,
}

// === impl Index ===

impl Index {
    /// Judges an object of a monitored namespace (or the MeshConfig) beside all others, as the next world would.
    /// The same object, known already, is not in its own way.
    pub fn judge(&self, object: &Object) -> Judgement {
        let mut problems = Vec::new();
        let mut conflicts = Vec::new();
        match object {
            Object::TrafficTarget(object) => {
                smi::authorization(self, &key(&object.metadata), &object.spec, &mut problems);
            }
            Object::HttpRouteGroup(object) => {
                smi::check_group(&key(&object.metadata), &object.spec, &mut problems);
            }
            Object::TrafficSplit(object) => {
                smi::split(self, &key(&object.metadata), &object.spec, &mut problems);
            }
            Object::Egress(object) => {
                self.report_flag(Kind::Egress, &object.metadata, &mut problems);
                osm::egress_rule(self, &key(&object.metadata), &object.spec, &mut problems);
            }
            Object::Retry(object) => {
                self.report_flag(Kind::Retry, &object.metadata, &mut problems);
                let made =
                    osm::retry_rule(self, &key(&object.metadata), &object.spec, &mut problems);
                problems.extend(made.err());
            }
            Object::IngressBackend(object) => {
                self.report_flag(Kind::IngressBackend, &object.metadata, &mut problems);
                let key = key(&object.metadata);
                conflicts = self.ingress_conflicts(&key, &object.spec);
                let mut opened = Opened::new();
                let made =
                    osm::ingress_object(self, &key, &object.spec, &mut opened, &mut problems);
                problems.extend(made.err());
            }
            Object::UpstreamTrafficSetting(object) => {
                let key = key(&object.metadata);
                let host = &object.spec.host;
                let mut others = self.monitored(&self.upstream_settings);
                let other = others
                    .find(|(other, spec)| other.0 == key.0 && **other != key && spec.host == *host);
                if let Some((other, _)) = other {
                    conflicts.push(format!(
                        "UpstreamTrafficSetting {}/{} conflicts with {}/{} since they have the same host {host}",
                        key.0, key.1, other.0, other.1
                    ));
                }
                let mut hosts = Default::default();
                let made =
                    osm::upstream_object(self, &key, &object.spec, &mut hosts, &mut problems);
                problems.extend(made.err());
            }
            Object::MeshConfig(object) => {
                osm::mesh_settings(self, Some(&object.spec), &mut problems);
            }
            Object::TcpRoute(object) => {
                smi::check_route(&key(&object.metadata), &object.spec, &mut problems);
            }
            // The rest is not for us to judge.
            _ => {}
        }
        problems.retain(|problem| problem.extent != Extent::Conflict);
        problems.sort();
        problems.dedup();
        Judgement {
            conflicts,
            problems,
        }
    }

    /// `[+] IngressBackend ns/x conflicts with ns/y:` and the backends, in upstream's words.
    fn ingress_conflicts(
        &self,
        key: &Key,
        spec: &api::policy::v1alpha1::IngressBackendSpec,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        for (other, existing) in self.monitored(&self.ingress_backends) {
            if other.0 != key.0 || other == key {
                continue;
            }
            let mut heading = Some(format!(
                "[+] IngressBackend {}/{} conflicts with {}/{}:",
                key.0, key.1, other.0, other.1
            ));
            for backend in &spec.backends {
                let same = existing.backends.iter().any(|known| {
                    known.name == backend.name && known.port.number == backend.port.number
                });
                if same {
                    lines.extend(heading.take());
                    lines.push(format!(
                        "Backend {} specified in {} and {} conflicts",
                        backend.name, key.1, other.1
                    ));
                }
            }
        }
        lines
    }

    /// A policy whose feature is switched off.
    fn report_flag(&self, kind: Kind, metadata: &ObjectMeta, problems: &mut Vec<Problem>) {
        let Some(config) = &self.mesh_config else {
            return;
        };
        let flags = &config.feature_flags;
        let (name, flag, on) = match kind {
            Kind::Egress => ("Egress", "enableEgressPolicy", flags.enable_egress_policy),
            Kind::Retry => ("Retry", "enableRetryPolicy", flags.enable_retry_policy),
            Kind::IngressBackend => (
                "IngressBackend",
                "enableIngressBackendPolicy",
                flags.enable_ingress_backend_policy,
            ),
            _ => return,
        };
        let key = key(metadata);
        let provenance = model::Provenance::new(name, &key.0, &key.1);
        if !on {
            let message = format!("no effect: the MeshConfig's featureFlags.{flag} is off");
            problems.push(provenance.void(message));
        }
    }
}
