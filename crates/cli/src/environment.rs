//! Settings of the command itself: `--osm-namespace`, the environment and `~/.osm/config.yaml`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub struct GlobalArgs {
    /// Namespace of the control plane [default: osm-system]
    #[arg(long, global = true, env = "OSM_NAMESPACE", value_name = "NAMESPACE")]
    pub osm_namespace: Option<String>,
    /// Say more about what happens
    #[arg(long, global = true)]
    pub verbose: bool,
}

/// The configuration file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigFile {
    install: InstallConfig,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct InstallConfig {
    kind: InstallKind,
    distribution: String,
    namespace: String,
}

/// Who looks after the control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum InstallKind {
    /// A cloud provider: this command must not install or remove it.
    Managed,
    #[default]
    SelfHosted,
}

/// What holds for this run.
pub struct Environment {
    config: ConfigFile,
    /// Namespace of the control plane.
    pub osm_namespace: String,
    /// Say more about what happens.
    pub verbose: bool,
}

// === impl InstallConfig ===

impl Default for InstallConfig {
    fn default() -> Self {
        Self {
            kind: InstallKind::default(),
            distribution: String::new(),
            namespace: api::labels::DEFAULT_OSM_NAMESPACE.to_owned(),
        }
    }
}

// === impl Environment ===

impl Environment {
    /// Reads the configuration file, if there is one, and lays flags and environment over it.
    pub fn new(args: &GlobalArgs) -> anyhow::Result<Self> {
        let mut config = read()?;
        if let Some(namespace) = args
            .osm_namespace
            .clone()
            .filter(|namespace| !namespace.is_empty())
        {
            config.install.namespace = namespace;
        }
        Ok(Self {
            osm_namespace: config.install.namespace.clone(),
            verbose: args.verbose,
            config,
        })
    }

    /// True if a cloud provider looks after the control plane.
    pub fn is_managed(&self) -> bool {
        self.config.install.kind == InstallKind::Managed
    }

    /// `osm env`.
    pub fn print(&self) -> anyhow::Result<()> {
        print!("---\n{}", serde_saphyr::to_string(&self.config)?);
        Ok(())
    }
}

fn read() -> anyhow::Result<ConfigFile> {
    let (path, asked_for) = match std::env::var_os("OSM_CONFIG") {
        Some(path) => (PathBuf::from(path), true),
        None => match std::env::var_os("HOME") {
            Some(home) => (PathBuf::from(home).join(".osm").join("config.yaml"), false),
            None => return Ok(ConfigFile::default()),
        },
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_saphyr::from_str(&text)
            .with_context(|| format!("cannot read configuration {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked_for => {
            Ok(ConfigFile::default())
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot read configuration {}", path.display()))
        }
    }
}
