//! The cluster's own objects: the system namespaces, and the Service `kubernetes` with its Endpoints

use std::fmt;

use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::Config;
use crate::key::{During, Failure, has_reason};
use crate::queue::{Next, Queue, work};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const SERVICE: &str = "kubernetes";

/// One of the cluster's own objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Own {
    Namespace(&'static str),
    Service,
    Endpoints,
}

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Service => write!(f, "Service default/{SERVICE}"),
            Self::Endpoints => write!(f, "Endpoints default/{SERVICE}"),
        }
    }
}

/// Makes each object once, trying until it is there; then waits for ever.
pub(crate) async fn run(client: Client, config: Config) {
    let queue = Queue::new();
    for namespace in NAMESPACES {
        queue.add(Own::Namespace(namespace));
    }
    queue.add(Own::Service);
    queue.add(Own::Endpoints);
    work("bootstrap", queue, |own| {
        make(client.clone(), config.clone(), own)
    })
    .await;
}

async fn make(client: Client, config: Config, own: Own) -> Result<Next, Failure> {
    let made = match own {
        Own::Namespace(name) => {
            let namespace = Namespace {
                metadata: kube::api::ObjectMeta {
                    name: Some(name.to_owned()),
                    ..Default::default()
                },
                ..Default::default()
            };
            match Api::all(client)
                .create(&PostParams::default(), &namespace)
                .await
            {
                Err(error) if has_reason(&error, "AlreadyExists") => Ok(()),
                other => other.map(drop),
            }
        }
        Own::Service => match service(&config) {
            Some(wanted) => ensure::<Service>(Api::namespaced(client, "default"), wanted).await,
            None => Ok(()),
        },
        Own::Endpoints => match endpoints(&config) {
            Some(wanted) => ensure::<Endpoints>(Api::namespaced(client, "default"), wanted).await,
            None => Ok(()),
        },
    };
    made.during(|| format!("make {own}"))?;
    Ok(Next::Wait)
}

/// Creates the object if there is none: most API servers keep their own Service themselves, and theirs is the better one.
async fn ensure<K>(api: Api<K>, wanted: Value) -> Result<(), kube::Error>
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + fmt::Debug,
{
    // Asked first, because a taken ClusterIP is refused before a taken name.
    if api.get_metadata_opt(SERVICE).await?.is_some() {
        return Ok(());
    }
    let object: K = serde_json::from_value(wanted).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &object).await {
        Err(error) if has_reason(&error, "AlreadyExists") => Ok(()),
        other => other.map(drop),
    }
}

fn service(config: &Config) -> Option<Value> {
    let first = config.api_service_ips.first()?;
    let target = config.api_endpoints.first()?.port();
    // Kubernetes' own Service is single stack, of the primary family.
    Some(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": first.to_string(), "clusterIPs": [first.to_string()],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": target}],
        },
    }))
}

fn endpoints(config: &Config) -> Option<Value> {
    let family_is_v4 = config.api_service_ips.first()?.is_ipv4();
    let of_family: Vec<_> = config
        .api_endpoints
        .iter()
        .filter(|address| address.is_ipv4() == family_is_v4)
        .collect();
    let port = of_family.first()?.port();
    let addresses: Vec<Value> = of_family
        .iter()
        .map(|address| json!({"ip": address.ip().to_string()}))
        .collect();
    Some(json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": SERVICE, "namespace": "default"},
        "subsets": [{"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_leads_to_the_addresses_of_its_family() {
        let config = Config {
            root_ca_pem: String::new(),
            api_service_ips: vec!["10.96.0.1".parse().unwrap(), "fd96::1".parse().unwrap()],
            api_endpoints: vec![
                "172.31.255.1:6443".parse().unwrap(),
                "[fd31::1]:6443".parse().unwrap(),
            ],
        };
        assert_eq!(
            service(&config).unwrap()["spec"]["ports"][0]["targetPort"],
            6443
        );
        let addresses = endpoints(&config).unwrap()["subsets"][0]["addresses"].clone();
        assert_eq!(addresses, json!([{"ip": "172.31.255.1"}]));
    }
}
