//! What a pod's containers share: network, volumes, host names.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest as ApiTokenRequest, TokenRequestSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, Secret, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::environment::service_variables;
use super::facts::Facts;
use super::task::PodTask;
use super::volumes::{Content, Tokens, content, give_to_group, token_requests, write};

impl PodTask {
    /// Folder of the pod on the cluster's tmpfs.
    pub(super) fn folder(&self) -> PathBuf {
        self.shared
            .config
            .run_dir
            .join("pods")
            .join(self.pod().uid().unwrap_or_default())
    }

    /// Where a volume is.
    pub(super) fn volume_folder(&self, name: &str) -> PathBuf {
        self.folder().join("volumes").join(name)
    }

    /// Makes network and volumes; may be called again after a failure.
    pub(super) async fn make_sandbox(&self) -> Result<(), (&'static str, String)> {
        let spec = self.spec();
        if spec.host_network == Some(true) {
            self.progress
                .lock()
                .ips
                .clone_from(&self.shared.config.addresses);
        } else if self.attachment().is_none() {
            let name = format!(
                "{}-{}",
                self.pod().name_any(),
                self.pod()
                    .uid()
                    .unwrap_or_default()
                    .get(..8)
                    .unwrap_or_default()
            );
            let attached = self.shared.network.attach_pod(&name).await;
            let attached = attached.map_err(|e| {
                (
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {e}"),
                )
            })?;
            self.progress.lock().ips.clone_from(&attached.ips);
            *self.attachment.lock() = Some(Arc::new(attached));
        }
        self.dirty.notify_one();
        let failed = |e: String| ("FailedMount", e);
        let facts = self.facts().await.map_err(failed)?;
        let tokens = self.tokens(&spec).await.map_err(failed)?;
        let group = fs_group(&spec);
        for volume in spec.volumes.iter().flatten() {
            let failed = |e: String| {
                failed(format!(
                    "MountVolume.SetUp failed for volume {:?} : {e}",
                    volume.name
                ))
            };
            let folder = self.volume_folder(&volume.name);
            let made = match content(&facts, volume, &tokens).map_err(failed)? {
                Content::Host(_) => Ok(()),
                Content::Files(files) => {
                    let made = write(&folder, &files, group);
                    self.volumes.lock().files.insert(volume.name.clone(), files);
                    made
                }
                Content::Empty => std::fs::create_dir_all(&folder)
                    .and_then(|()| {
                        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777))
                    })
                    .and_then(|()| group.map_or(Ok(()), |g| give_to_group(&folder, g, true))),
            };
            made.map_err(|e| failed(e.to_string()))?;
        }
        self.volumes.lock().tokens = tokens;
        Ok(())
    }

    /// Everything that variables and volumes are made from, read from the API now.
    pub(super) async fn facts(&self) -> Result<Facts, String> {
        let pod = self.pod();
        let namespace = pod.namespace().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let (config_maps, secrets) = references(&spec);
        let services = self.shared.catalog.services.snapshot();
        let links = spec.enable_service_links != Some(false);
        let mut facts = Facts {
            pod: (*pod).clone(),
            pod_ips: self.progress.lock().ips.clone(),
            host_ips: self.shared.config.addresses.clone(),
            node: self.shared.config.name.clone(),
            services: service_variables(services.iter().map(|(k, s)| (k, &**s)), &namespace, links),
            ..Facts::default()
        };
        let api: Api<ConfigMap> = Api::namespaced(self.shared.client.clone(), &namespace);
        for name in config_maps {
            if let Some(map) = api
                .get_opt(&name)
                .await
                .map_err(|e| format!("configmap {name:?}: {e}"))?
            {
                facts.config_maps.insert(name, map);
            }
        }
        let api: Api<Secret> = Api::namespaced(self.shared.client.clone(), &namespace);
        for name in secrets {
            if let Some(secret) = api
                .get_opt(&name)
                .await
                .map_err(|e| format!("secret {name:?}: {e}"))?
            {
                facts.secrets.insert(name, secret);
            }
        }
        Ok(facts)
    }

    /// Asks for the tokens of the pod's projected volumes.
    async fn tokens(&self, spec: &PodSpec) -> Result<Tokens, String> {
        let pod = self.pod();
        let account = spec
            .service_account_name
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let api: Api<ServiceAccount> = Api::namespaced(
            self.shared.client.clone(),
            &pod.namespace().unwrap_or_default(),
        );
        let mut tokens = Tokens::new();
        for wanted in token_requests(spec) {
            let request = ApiTokenRequest {
                spec: TokenRequestSpec {
                    audiences: if wanted.audience.is_empty() {
                        Vec::new()
                    } else {
                        vec![wanted.audience.clone()]
                    },
                    expiration_seconds: Some(wanted.seconds),
                    bound_object_ref: Some(BoundObjectReference {
                        api_version: Some("v1".to_owned()),
                        kind: Some("Pod".to_owned()),
                        name: pod.metadata.name.clone(),
                        uid: pod.metadata.uid.clone(),
                    }),
                },
                ..ApiTokenRequest::default()
            };
            let answer = api
                .create_token_request(&account, &PostParams::default(), &request)
                .await;
            let answer = answer.map_err(|e| format!("failed to fetch token: {e}"))?;
            let token = answer
                .status
                .ok_or_else(|| "failed to fetch token: answer without status".to_owned())?
                .token;
            tokens.insert(wanted, token);
        }
        Ok(tokens)
    }

    /// Keeps volumes equal to their sources and tokens fresh, until dropped.
    pub(super) async fn refresh_volumes(&self) {
        let spec = self.spec();
        // A kubelet renews a token when a fifth of its life is left.
        let renewal = token_requests(&spec).iter().map(|t| t.seconds).min();
        let renewal =
            renewal.map(|s| Duration::from_secs(u64::try_from(s * 4 / 5).unwrap_or(u64::MAX)));
        let (mut maps, mut secrets) = (
            self.shared.config_maps.changes(),
            self.shared.secrets.changes(),
        );
        let mut object = self.changes();
        let mut due = renewal.map(|r| tokio::time::Instant::now() + r);
        if spec
            .volumes
            .iter()
            .flatten()
            .all(|v| v.host_path.is_some() || v.empty_dir.is_some())
        {
            return std::future::pending().await;
        }
        loop {
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let renew = tokio::select! {
                _ = maps.changed() => false,
                _ = secrets.changed() => false,
                _ = object.changed() => false,
                () = timer => true,
            };
            if renew {
                match self.tokens(&spec).await {
                    Ok(fresh) => {
                        self.volumes.lock().tokens = fresh;
                        due = renewal.map(|r| tokio::time::Instant::now() + r);
                    }
                    Err(error) => {
                        tracing::warn!(
                            pod = self.pod().name_any(),
                            error,
                            "tokens could not be renewed; trying again"
                        );
                        due = Some(tokio::time::Instant::now() + Duration::from_secs(10));
                        continue;
                    }
                }
            } else {
                // Several objects of one `apply` belong together.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            self.rewrite(&spec);
        }
    }

    /// Writes the volumes whose content differs from the last time.
    fn rewrite(&self, spec: &PodSpec) {
        let pod = self.pod();
        let namespace = pod.namespace().unwrap_or_default();
        let (maps, secrets) = references(spec);
        let facts = Facts {
            pod: (*pod).clone(),
            pod_ips: self.progress.lock().ips.clone(),
            host_ips: self.shared.config.addresses.clone(),
            node: self.shared.config.name.clone(),
            config_maps: maps
                .into_iter()
                .filter_map(|n| {
                    Some((
                        n.clone(),
                        (*self.shared.config_maps.object(&namespace, &n)?).clone(),
                    ))
                })
                .collect(),
            secrets: secrets
                .into_iter()
                .filter_map(|n| {
                    Some((
                        n.clone(),
                        (*self.shared.secrets.object(&namespace, &n)?).clone(),
                    ))
                })
                .collect(),
            ..Facts::default()
        };
        let mut volumes = self.volumes.lock();
        for volume in spec.volumes.iter().flatten() {
            // A missing source leaves what is there, as with a kubelet.
            let Ok(Content::Files(files)) = content(&facts, volume, &volumes.tokens) else {
                continue;
            };
            if volumes
                .files
                .get(&volume.name)
                .is_none_or(|last| *last == files)
            {
                continue;
            }
            match write(&self.volume_folder(&volume.name), &files, fs_group(spec)) {
                Ok(()) => drop(volumes.files.insert(volume.name.clone(), files)),
                Err(error) => {
                    tracing::warn!(pod = pod.name_any(), volume = volume.name, %error, "volume could not be updated")
                }
            }
        }
    }

    /// Removes what the pod had on disk.
    pub(super) async fn remove_folders(&self) {
        let pod = self.pod();
        let folders = [self.folder(), self.log_folder()];
        let removed = tokio::task::spawn_blocking(move || {
            for folder in folders {
                match std::fs::remove_dir_all(&folder) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(folder = %folder.display(), %error, "could not be removed");
                    }
                    _ => {}
                }
            }
        });
        if removed.await.is_err() {
            tracing::warn!(
                pod = pod.name_any(),
                "removing the pod's folders was interrupted"
            );
        }
    }

    /// Folder of the pod's logs, named as a kubelet does.
    pub(super) fn log_folder(&self) -> PathBuf {
        let pod = self.pod();
        let name = format!(
            "{}_{}_{}",
            pod.namespace().unwrap_or_default(),
            pod.name_any(),
            pod.uid().unwrap_or_default()
        );
        self.shared.config.log_dir.join(name)
    }

    /// Marks the pod as failed as a whole.
    pub(super) fn fail(&self, reason: &str, message: &str) {
        let mut progress = self.progress.lock();
        progress.failed = Some((reason.to_owned(), message.to_owned()));
        progress.started.get_or_insert(Timestamp::now());
        drop(progress);
        self.dirty.notify_one();
    }
}

/// securityContext.fsGroup.
pub(super) fn fs_group(spec: &PodSpec) -> Option<u32> {
    spec.security_context
        .as_ref()
        .and_then(|s| s.fs_group)
        .and_then(|g| u32::try_from(g).ok())
}

/// Names of ConfigMaps and Secrets that a pod's variables and volumes come from.
fn references(spec: &PodSpec) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.iter().map(|m| m.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|s| s.secret_name.clone()));
        for source in volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten())
        {
            maps.extend(source.config_map.iter().map(|m| m.name.clone()));
            secrets.extend(source.secret.iter().map(|s| s.name.clone()));
        }
    }
    for container in spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
    {
        for source in container.env_from.iter().flatten() {
            maps.extend(source.config_map_ref.iter().map(|m| m.name.clone()));
            secrets.extend(source.secret_ref.iter().map(|s| s.name.clone()));
        }
        for source in container
            .env
            .iter()
            .flatten()
            .filter_map(|e| e.value_from.as_ref())
        {
            maps.extend(source.config_map_key_ref.iter().map(|m| m.name.clone()));
            secrets.extend(source.secret_key_ref.iter().map(|s| s.name.clone()));
        }
    }
    (maps, secrets)
}
