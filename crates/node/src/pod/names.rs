//! Host names and resolver settings of a pod's containers.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::PodSpec;
use kube::ResourceExt;

use super::task::PodTask;

impl PodTask {
    /// /etc/hosts, /etc/hostname and /etc/resolv.conf of the pod's containers.
    pub(super) fn name_files(&self, spec: &PodSpec) -> Vec<(PathBuf, String)> {
        let mut files = vec![(
            PathBuf::from("/etc/hostname"),
            format!("{}\n", self.hostname()),
        )];
        if spec.host_network != Some(true) {
            let ips = self.progress.lock().ips.clone();
            files.push((
                "/etc/hosts".into(),
                hosts_file(spec, &ips, &self.hostname(), &self.full_name(spec)),
            ));
        }
        if let Some(text) = self.resolv_conf(spec) {
            files.push(("/etc/resolv.conf".into(), text));
        }
        files
    }

    /// The pod's host name.
    pub(super) fn hostname(&self) -> String {
        let pod = self.pod();
        let spec = pod.spec.as_ref();
        if spec.is_some_and(|s| s.host_network == Some(true)) {
            return self.shared.config.name.clone();
        }
        // 63: the longest DNS label.
        let name = spec
            .and_then(|s| s.hostname.clone())
            .unwrap_or_else(|| pod.name_any());
        name.chars()
            .take(63)
            .collect::<String>()
            .trim_end_matches(['-', '.'])
            .to_owned()
    }

    fn full_name(&self, spec: &PodSpec) -> Option<String> {
        let subdomain = spec.subdomain.as_ref().filter(|s| !s.is_empty())?;
        let namespace = self.pod().namespace().unwrap_or_default();
        Some(format!(
            "{}.{subdomain}.{namespace}.svc.{}",
            self.hostname(),
            self.shared.config.cluster_domain
        ))
    }

    /// `None`: the host's own file.
    fn resolv_conf(&self, spec: &PodSpec) -> Option<String> {
        let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
        let host_network = spec.host_network == Some(true);
        let cluster =
            policy == "ClusterFirstWithHostNet" || policy == "ClusterFirst" && !host_network;
        if !cluster && policy != "None" {
            return None;
        }
        let (mut servers, mut search, mut options) = (Vec::new(), Vec::new(), Vec::new());
        if cluster {
            let domain = &self.shared.config.cluster_domain;
            let namespace = self.pod().namespace().unwrap_or_default();
            servers.push(self.shared.config.dns_address.to_string());
            search.extend([
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.clone(),
            ]);
            options.push("ndots:5".to_owned());
        }
        if let Some(extra) = &spec.dns_config {
            servers.extend(extra.nameservers.iter().flatten().cloned());
            search.extend(extra.searches.iter().flatten().cloned());
            for option in extra.options.iter().flatten() {
                let name = option.name.clone().unwrap_or_default();
                options.retain(|o| o.split(':').next() != Some(&name));
                options.push(
                    option
                        .value
                        .as_ref()
                        .map_or(name.clone(), |v| format!("{name}:{v}")),
                );
            }
        }
        let mut text = String::new();
        if !search.is_empty() {
            let _ = writeln!(text, "search {}", search.join(" "));
        }
        for server in servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !options.is_empty() {
            let _ = writeln!(text, "options {}", options.join(" "));
        }
        Some(text)
    }
}

fn hosts_file(
    spec: &PodSpec,
    ips: &[IpAddr],
    hostname: &str,
    full_name: &Option<String>,
) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let names = full_name
            .iter()
            .map(String::as_str)
            .chain([hostname])
            .collect::<Vec<_>>()
            .join("\t");
        let _ = writeln!(text, "{ip}\t{names}");
    }
    let aliases: Vec<_> = spec.host_aliases.iter().flatten().collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let _ = writeln!(
            text,
            "{}\t{}",
            alias.ip,
            alias.hostnames.clone().unwrap_or_default().join("\t")
        );
    }
    text
}
