//! The simulated cluster: who is there, and who may call whom. Pure.

/// Pods behind each service.
pub const PODS: usize = 10;
/// Port of every service.
pub const PORT: u16 = 80;
/// Port of every application.
pub const TARGET_PORT: u16 = 8080;
/// Trust domain of the mesh.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// Namespaces that the services are spread over.
const NAMESPACES: usize = 10;

/// A cluster of this many services.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Services; each has [`PODS`] pods and an account of its own.
    pub services: usize,
}

/// A service's number.
pub type Service = usize;

// === impl Plan ===

impl Plan {
    /// For about this many pods.
    pub fn of_pods(pods: usize) -> Plan {
        Plan {
            services: (pods / PODS).max(NAMESPACES),
        }
    }

    /// Pods of the cluster.
    pub fn pods(self) -> usize {
        self.services * PODS
    }

    /// Names of the namespaces.
    pub fn namespaces(self) -> impl Iterator<Item = String> {
        (0..NAMESPACES).map(|index| format!("shop{index}"))
    }

    /// Who may call the service: two others, each by a TrafficTarget of its own.
    pub fn callers(self, service: Service) -> Vec<Service> {
        let mut callers = vec![
            (service * 7 + 1) % self.services,
            (service * 13 + 5) % self.services,
        ];
        callers.retain(|caller| *caller != service);
        callers.dedup();
        callers
    }

    /// How many services the service may call.
    pub fn callees(self, service: Service) -> usize {
        (0..self.services)
            .filter(|callee| self.callers(*callee).contains(&service))
            .count()
    }
}

/// The namespace of a service, its pods and its account.
pub fn namespace(service: Service) -> String {
    format!("shop{}", service % NAMESPACES)
}

/// Name of a service, its account, and the stem of its pods' names.
pub fn name(service: Service) -> String {
    format!("service{service}")
}

/// Name of a pod.
pub fn pod(service: Service, index: usize) -> String {
    format!("service{service}-{index}")
}

/// Address of a pod.
pub fn address(service: Service, index: usize) -> String {
    let number = service * PODS + index;
    format!(
        "10.{}.{}.{}",
        128 + number / 62_500,
        number / 250 % 250,
        1 + number % 250
    )
}

/// Value of the pod's label `osm-proxy-uuid`.
pub fn uuid(service: Service, index: usize) -> String {
    format!("{service:08x}-0000-4000-8000-{index:012x}")
}

/// Name of the cluster that leads to a service.
pub fn cluster(service: Service) -> String {
    format!("{}/{}|{TARGET_PORT}", namespace(service), name(service))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ten_thousand_pods_have_addresses_of_their_own_and_two_thousand_grants() {
        let plan = Plan::of_pods(10_000);
        assert_eq!((plan.services, plan.pods()), (1000, 10_000));
        let addresses: BTreeSet<String> = (0..plan.services)
            .flat_map(|service| (0..PODS).map(move |index| address(service, index)))
            .collect();
        assert_eq!(addresses.len(), plan.pods());
        assert!(
            addresses
                .iter()
                .all(|address| address.parse::<std::net::IpAddr>().is_ok())
        );
        let grants: usize = (0..plan.services)
            .map(|service| plan.callers(service).len())
            .sum();
        assert!((1990..=2000).contains(&grants), "{grants}");
        let both_ways: usize = (0..plan.services)
            .map(|service| plan.callees(service))
            .sum();
        assert_eq!(grants, both_ways);
    }
}
