//! A container's order: what `container::start_container` needs, from the pod's spec.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};

use super::environment::{command_line, environment, expand};
use super::facts::Facts;
use super::sandbox::fs_group;
use super::task::PodTask;
use crate::container::{Bind, Order, Rights};
use crate::image::{Image, Table};

/// Where a container may leave a last word unless the pod says otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Why a container could not be started, as its waiting state shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `ErrImagePull`, `CreateContainerConfigError` …
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn config(message: String) -> Self {
        Self {
            reason: "CreateContainerConfigError",
            message,
        }
    }
}

impl PodTask {
    /// What `image` stands for now.
    pub(super) fn image(&self, container: &Container) -> Result<Image, Refusal> {
        let pull = |message: String| Refusal {
            reason: "ErrImagePull",
            message,
        };
        let table =
            Table::read(&self.shared.config.images_file).map_err(|e| pull(e.to_string()))?;
        table
            .resolve(
                container.image.as_deref().unwrap_or_default(),
                &self.shared.config.executable,
            )
            .map_err(pull)
    }

    /// Folder of one run of a container.
    pub(super) fn run_folder(&self, container: &str, run: i32) -> PathBuf {
        self.folder()
            .join("containers")
            .join(container)
            .join(run.to_string())
    }

    /// The order for the next run of a container, and its variables.
    pub(super) fn order(
        &self,
        spec: &PodSpec,
        container: &Container,
        facts: &Facts,
        image: &Image,
        run: i32,
    ) -> Result<(Order, Vec<(String, String)>), Refusal> {
        let rights = rights(spec, container).map_err(Refusal::config)?;
        let env = environment(facts, container, rights.uid).map_err(Refusal::config)?;
        let folder = self.run_folder(&container.name, run);
        let mut mounts = image.mounts.clone();
        let mut volumes: Vec<&VolumeMount> = container.volume_mounts.iter().flatten().collect();
        // An outer folder first, or it would hide the inner one.
        volumes.sort_by_key(|m| Path::new(&m.mount_path).components().count());
        for mount in volumes {
            mounts.push(self.mount(spec, mount, &env).map_err(Refusal::config)?);
        }
        let last_word = container
            .termination_message_path
            .as_deref()
            .filter(|p| !p.is_empty())
            .unwrap_or(TERMINATION_LOG);
        mounts.push(Bind {
            source: folder.join("termination-log"),
            target: last_word.into(),
            read_only: false,
        });
        let security = container.security_context.as_ref();
        let order = Order {
            hostname: self.hostname(),
            files: self.name_files(spec),
            mounts,
            read_only_root: security.and_then(|s| s.read_only_root_filesystem) == Some(true),
            privileged: security.and_then(|s| s.privileged) == Some(true),
            command: command_line(container, &image.command, &env),
            rights,
            folder,
        };
        Ok((order, env))
    }

    fn mount(
        &self,
        spec: &PodSpec,
        mount: &VolumeMount,
        env: &[(String, String)],
    ) -> Result<Bind, String> {
        let volume = spec.volumes.iter().flatten().find(|v| v.name == mount.name);
        let volume = volume
            .ok_or_else(|| format!("volumeMounts: volume {:?} does not exist", mount.name))?;
        let base = match &volume.host_path {
            Some(host) => PathBuf::from(&host.path),
            None => self.volume_folder(&volume.name),
        };
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => path.clone(),
            (_, Some(path)) => expand(path, &env.iter().cloned().collect::<BTreeMap<_, _>>()),
            _ => String::new(),
        };
        let source = if sub_path.is_empty() {
            base
        } else {
            inside(&base, &sub_path)?
        };
        if !sub_path.is_empty() && !source.exists() {
            std::fs::create_dir_all(&source)
                .map_err(|e| format!("subPath {sub_path:?} of volume {:?}: {e}", volume.name))?;
        }
        let from_api = volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.projected.is_some()
            || volume.downward_api.is_some();
        Ok(Bind {
            source,
            target: mount.mount_path.clone().into(),
            read_only: mount.read_only == Some(true) || from_api,
        })
    }
}

/// `base`/`path`, refusing what would leave `base`.
fn inside(base: &Path, path: &str) -> Result<PathBuf, String> {
    let parts: Vec<_> = Path::new(path).components().collect();
    if !parts
        .iter()
        .all(|p| matches!(p, Component::Normal(_) | Component::CurDir))
    {
        return Err(format!("subPath {path:?} must stay inside the volume"));
    }
    let joined = base.join(path);
    match (joined.canonicalize(), base.canonicalize()) {
        (Ok(real), Ok(base)) if !real.starts_with(&base) => {
            Err(format!("subPath {path:?} must stay inside the volume"))
        }
        _ => Ok(joined),
    }
}

/// User, groups and capabilities; the container's securityContext before the pod's.
fn rights(spec: &PodSpec, container: &Container) -> Result<Rights, String> {
    let of_pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let number = |field: &str, value: i64| {
        u32::try_from(value)
            .map_err(|_| format!("securityContext.{field}: {value} is out of range"))
    };
    let uid = own
        .and_then(|s| s.run_as_user)
        .or(of_pod.and_then(|s| s.run_as_user))
        .unwrap_or(0);
    let gid = own
        .and_then(|s| s.run_as_group)
        .or(of_pod.and_then(|s| s.run_as_group))
        .unwrap_or(0);
    let non_root = own
        .and_then(|s| s.run_as_non_root)
        .or(of_pod.and_then(|s| s.run_as_non_root));
    if non_root == Some(true) && uid == 0 {
        return Err(format!(
            "container has runAsNonRoot and image will run as root (container: {})",
            container.name
        ));
    }
    let mut groups = vec![number("runAsGroup", gid)?];
    for group in of_pod
        .and_then(|s| s.supplemental_groups.as_ref())
        .into_iter()
        .flatten()
    {
        groups.push(number("supplementalGroups", *group)?);
    }
    groups.extend(fs_group(spec));
    let privileged = own.and_then(|s| s.privileged) == Some(true);
    let capabilities = own.and_then(|s| s.capabilities.clone()).unwrap_or_default();
    let set = Rights::bounding_set(
        &capabilities.add.unwrap_or_default(),
        &capabilities.drop.unwrap_or_default(),
    );
    let set = set.map_err(|e| format!("securityContext.capabilities: {e}"))?;
    Ok(Rights {
        uid: number("runAsUser", uid)?,
        gid: number("runAsGroup", gid)?,
        groups,
        capabilities: (!privileged).then_some(set),
        no_new_privileges: own.and_then(|s| s.allow_privilege_escalation) == Some(false),
        directory: container.working_dir.clone().unwrap_or_default(),
        terminal: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_containers_security_context_wins_over_the_pods() {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [], "securityContext": {"runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 2000, "supplementalGroups": [3000]}
        }))
        .unwrap();
        let container = |context| {
            serde_json::from_value::<Container>(json!({"name": "c", "securityContext": context}))
                .unwrap()
        };
        let own = rights(
            &spec,
            &container(json!({"runAsUser": 1500, "allowPrivilegeEscalation": false})),
        )
        .unwrap();
        assert_eq!((own.uid, own.gid, own.no_new_privileges), (1500, 0, true));
        assert_eq!(own.groups, [0, 3000, 2000]);
        let root = rights(&spec, &container(json!({"runAsUser": 0}))).unwrap_err();
        assert_eq!(
            root,
            "container has runAsNonRoot and image will run as root (container: c)"
        );
        let init = rights(
            &spec,
            &container(json!({"runAsUser": 0, "runAsNonRoot": false, "privileged": true})),
        )
        .unwrap();
        assert_eq!((init.uid, init.capabilities), (0, None));
    }

    #[test]
    fn sub_paths_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("out")).unwrap();
        assert!(inside(folder.path(), "a/b").is_ok());
        for path in ["../x", "/etc", "out"] {
            assert!(inside(folder.path(), path).is_err(), "{path}");
        }
    }
}
