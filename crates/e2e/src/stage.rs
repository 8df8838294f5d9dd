//! A cluster to play on: the embedded one, made for the occasion, or a Kubernetes that is already there.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::command::{Output, run};
use crate::outside::World;
use crate::wait::eventually;

/// Which kind of cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// `osm local up`, in a folder of its own.
    Embedded,
    /// The one that KUBECONFIG names.
    Kubernetes,
}

/// Which program the sidecars are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// Our own.
    #[default]
    OsmProxy,
    /// A stock Envoy.
    Envoy,
}

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The `osm` command.
    pub osm: PathBuf,
    /// The demo workloads.
    pub apps: PathBuf,
}

/// A cluster, the world outside it and the programs.
#[derive(Debug)]
pub struct Stage {
    cluster: Cluster,
    programs: Programs,
    directory: PathBuf,
    kubeconfig: PathBuf,
    outside: Vec<Child>,
}

/// Longest wait for one command; what waits for more than a command is tried again by its caller.
pub const COMMAND: Duration = Duration::from_secs(60);

/// Longest wait for a cluster to come up, and for the mesh to be installed.
pub const BRING_UP: Duration = Duration::from_secs(180);

/// Longest wait for the outside hosts to listen.
const OUTSIDE: Duration = Duration::from_secs(30);

/// Longest wait for a child to follow a signal.
const GRACE: Duration = Duration::from_secs(5);

// === impl Cluster ===

impl Cluster {
    /// From the environment variable CLUSTER; embedded if there is none.
    pub fn from_environment() -> Result<Self> {
        std::env::var("CLUSTER").map_or(Ok(Self::Embedded), |name| name.parse())
    }
}

impl std::str::FromStr for Cluster {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "embedded" | "" => Ok(Self::Embedded),
            "kubernetes" => Ok(Self::Kubernetes),
            other => bail!("CLUSTER={other}: must be embedded or kubernetes"),
        }
    }
}

// === impl Driver ===

impl Driver {
    /// From the environment variable DRIVER; our own proxy if there is none.
    pub fn from_environment() -> Result<Self> {
        std::env::var("DRIVER").map_or(Ok(Self::default()), |name| name.parse())
    }
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OsmProxy => "osm-proxy",
            Self::Envoy => "envoy",
        })
    }
}

impl std::str::FromStr for Driver {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "osm-proxy" | "" => Ok(Self::OsmProxy),
            "envoy" => Ok(Self::Envoy),
            other => bail!("DRIVER={other}: must be osm-proxy or envoy"),
        }
    }
}

// === impl Programs ===

impl Programs {
    /// The `osm` and `osm-apps` that lie beside the running program.
    pub fn beside_this_one() -> Result<Self> {
        let this = std::env::current_exe().context("own path")?;
        let folder = this.parent().context("own folder")?;
        let found = |name: &str| {
            let path = folder.join(name);
            ensure!(
                path.exists(),
                "{}: not there; build it first",
                path.display()
            );
            Ok(path)
        };
        Ok(Self {
            osm: found("osm")?,
            apps: found("osm-apps")?,
        })
    }
}

// === impl Stage ===

impl Stage {
    /// A stage in a folder. The cluster is not there yet: [`Stage::up`].
    pub fn new(cluster: Cluster, programs: Programs, directory: &Path) -> Result<Self> {
        let directory = directory
            .canonicalize()
            .with_context(|| directory.display().to_string())?;
        let bin = directory.join("bin");
        std::fs::create_dir_all(&bin)?;
        for (name, program) in [("osm", &programs.osm), ("osm-apps", &programs.apps)] {
            let link = bin.join(name);
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(program, link)?;
        }
        let kubeconfig = match cluster {
            Cluster::Embedded => directory.join("kubeconfig"),
            Cluster::Kubernetes => std::env::var_os("KUBECONFIG")
                .map(PathBuf::from)
                .context("KUBECONFIG is not set")?,
        };
        Ok(Self {
            cluster,
            programs,
            directory,
            kubeconfig,
            outside: Vec::new(),
        })
    }

    /// The kind of cluster.
    pub fn cluster(&self) -> Cluster {
        self.cluster
    }

    /// The folder of the stage.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The configuration by which kubectl finds the cluster.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Brings the embedded cluster up; on a Kubernetes that is there already, looks whether it answers.
    pub async fn up(&self) -> Result<Output> {
        let output = match self.cluster {
            Cluster::Embedded => {
                run(
                    &mut self.program(&self.programs.osm, &["local", "up"]),
                    None,
                    BRING_UP,
                )
                .await?
            }
            Cluster::Kubernetes => self.kubectl(&["get", "nodes"]).await?,
        };
        ensure!(output.succeeded(), "{}", output.complaint());
        Ok(output)
    }

    /// Ends what was started; on the embedded cluster nothing is left.
    pub async fn down(&mut self) -> Result<()> {
        for child in &mut self.outside {
            end(child).await;
        }
        if self.cluster == Cluster::Embedded {
            let output = run(
                &mut self.program(&self.programs.osm, &["local", "down"]),
                None,
                COMMAND,
            )
            .await?;
            ensure!(output.succeeded(), "{}", output.complaint());
        }
        Ok(())
    }

    /// Removes the files of the stage from its folder.
    pub fn clean(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let removed = if path.is_dir() && !path.is_symlink() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// kubectl on this cluster.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        run(
            &mut self.program(Path::new("kubectl"), arguments),
            None,
            COMMAND,
        )
        .await
    }

    /// kubectl with a text on its standard input.
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<Output> {
        run(
            &mut self.program(Path::new("kubectl"), arguments),
            Some(input),
            COMMAND,
        )
        .await
    }

    /// `kubectl apply -f -`; an error if it is refused.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        self.kubectl_with(&["apply", "-f", "-"], manifests)
            .await?
            .text()
    }

    /// The osm command on this cluster.
    pub async fn osm(&self, arguments: &[&str]) -> Result<Output> {
        run(
            &mut self.program(&self.programs.osm, arguments),
            None,
            BRING_UP,
        )
        .await
    }

    /// A line of shell with kubectl, osm and osm-apps in its path, in the folder of the stage.
    pub async fn shell(&self, line: &str, limit: Duration) -> Result<Output> {
        let mut output = run(
            &mut self.program(Path::new("bash"), &["-c", line]),
            None,
            limit,
        )
        .await?;
        output.command = line.to_owned();
        Ok(output)
    }

    /// Starts hosts outside the cluster and gives their certificate authority (PEM). Their names must be published.
    pub async fn outside(&mut self, name: &str, world: &World) -> Result<String> {
        let authority = self.directory.join(format!("{name}-ca.pem"));
        let log = std::fs::File::create(self.directory.join(format!("{name}.log")))?;
        let (program, mut words): (PathBuf, Vec<PathBuf>) = match self.cluster {
            Cluster::Embedded => (
                self.programs.osm.clone(),
                vec!["local".into(), "outside".into()],
            ),
            Cluster::Kubernetes => {
                prefix(&std::env::var("OSM_OUTSIDE").context("OSM_OUTSIDE is not set")?)?
            }
        };
        words.extend(world.command(&self.programs.apps, &authority));
        let mut command = self.program(&program, &[]);
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("{}: cannot be started", program.display()))?;
        let ready = eventually(OUTSIDE, async || {
            ensure!(
                !matches!(child.try_wait(), Ok(Some(_))),
                "outside hosts ended"
            );
            let text = std::fs::read_to_string(&authority).unwrap_or_default();
            ensure!(
                text.contains("END CERTIFICATE"),
                "outside hosts do not listen yet"
            );
            Ok(text)
        })
        .await;
        self.outside.push(child);
        ready.with_context(|| {
            std::fs::read_to_string(self.directory.join(format!("{name}.log"))).unwrap_or_default()
        })
    }

    /// Makes names known to the cluster's DNS, as lines of /etc/hosts; they replace the ones from before.
    pub async fn publish(&self, hosts: &str) -> Result<()> {
        let patch = serde_json::json!({ "data": { "hosts": hosts } }).to_string();
        let patch_it = [
            "patch",
            "configmap",
            "dns",
            "-n",
            "kube-system",
            "--type=merge",
            "-p",
            &patch,
        ];
        let output = self.kubectl(&patch_it).await?;
        if output.succeeded() {
            return Ok(());
        }
        ensure!(output.stderr.contains("NotFound"), "{}", output.complaint());
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "dns", "namespace": "kube-system" },
            "data": { "hosts": hosts }
        });
        self.apply(&object.to_string()).await.map(drop)
    }

    /// A program with the environment of this stage.
    fn program(&self, program: &Path, arguments: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.directory)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.directory.join("kube-cache"))
            .env("OSM_LOCAL_DIR", &self.directory)
            .env(
                "PATH",
                format!(
                    "{}:{path}:/usr/sbin:/sbin",
                    self.directory.join("bin").display()
                ),
            );
        command
    }
}

fn prefix(command: &str) -> Result<(PathBuf, Vec<PathBuf>)> {
    let mut words = command.split_whitespace().map(PathBuf::from);
    let program = words.next().context("OSM_OUTSIDE is empty")?;
    Ok((program, words.collect()))
}

/// Asks a child's process group to end, and ends it if it does not.
async fn end(child: &mut Child) {
    let Some(group) = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw)
    else {
        return;
    };
    let _ = killpg(group, Signal::SIGTERM);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_have_two_names() {
        assert_eq!(
            "kubernetes".parse::<Cluster>().expect("known"),
            Cluster::Kubernetes
        );
        let error = "minikube".parse::<Cluster>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "CLUSTER=minikube: must be embedded or kubernetes"
        );
    }
}
