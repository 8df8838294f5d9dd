//! `osm local …`: the launcher of the embedded cluster.
//!
//! `up` starts a detached supervisor; the supervisor binds the API port in the host's network namespace, then runs the
//! daemon in private mount, pid, network, uts and ipc namespaces (and a user namespace when not root), so that everything
//! vanishes with its first process. Hidden subcommands are the same executable started again inside those namespaces.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::container::enter;

mod daemon;
mod down;
mod image;
mod outside;
mod place;
mod status;
mod supervise;
mod up;

/// `osm local`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a single-node cluster on this machine
    Up(Up),
    /// End the cluster and remove what it left
    Down(Down),
    /// Show the cluster's node, API address and pods
    Status(Place),
    /// Map image names to programs of this machine
    Image(Image),
    /// Run a program on a host outside the pod network
    Outside(Outside),
    #[command(hide = true)]
    Supervise(Supervise),
    #[command(hide = true)]
    Daemon(Daemon),
    #[command(hide = true)]
    Container,
    #[command(hide = true)]
    Exec(Exec),
}

/// Where a cluster lives.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Folder of the cluster [default: $XDG_STATE_HOME/osm or ~/.local/state/osm]
    #[arg(long, env = "OSM_LOCAL_DIR", global = true)]
    pub dir: Option<PathBuf>,
}

/// `osm local up`.
#[derive(Args, Clone, Debug)]
pub struct Up {
    #[command(flatten)]
    pub place: Place,
    /// Name of the cluster in the kubeconfig
    #[arg(long, default_value = "osm-local")]
    pub name: String,
    /// Port of the API server on 127.0.0.1 [default: a free one]
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// How long to wait for the node to be Ready, in seconds
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
}

/// `osm local down`.
#[derive(Args, Clone, Debug)]
pub struct Down {
    #[command(flatten)]
    pub place: Place,
    /// Keep the objects for the next `up`
    #[arg(long)]
    pub keep: bool,
}

/// `osm local image`.
#[derive(Args, Clone, Debug)]
pub struct Image {
    #[command(flatten)]
    pub place: Place,
    #[command(subcommand)]
    pub action: ImageAction,
}

/// What to do with the image table.
#[derive(Subcommand, Clone, Debug)]
pub enum ImageAction {
    /// Let an image name stand for a program
    Add {
        /// Image name as pods write it; without a tag it stands for every tag
        name: String,
        /// Program that runs if the pod gives no command; `-` for none
        program: PathBuf,
        /// Its arguments if the pod gives no args
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
        /// Folder to show in the container at the same path, read-only (may be given again)
        #[arg(long = "mount")]
        mounts: Vec<PathBuf>,
    },
    /// Show the table
    List,
    /// Forget an image name
    Remove {
        /// Image name
        name: String,
    },
}

/// `osm local outside`.
#[derive(Args, Clone, Debug)]
pub struct Outside {
    #[command(flatten)]
    pub place: Place,
    /// IPv4 address of the outside host (may be given again)
    #[arg(long = "ip", required = true)]
    pub ip: Vec<IpAddr>,
    /// IPv6 address of the outside host (may be given again)
    #[arg(long = "ip6")]
    pub ip6: Vec<IpAddr>,
    /// Program and arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Holds the API port and starts the daemon again when it dies.
#[derive(Args, Clone, Debug)]
pub struct Supervise {
    #[command(flatten)]
    pub place: Place,
    #[arg(long)]
    pub name: String,
    #[arg(long)]
    pub port: u16,
}

/// API server, controllers and node, first process of the private namespaces.
#[derive(Args, Clone, Debug)]
pub struct Daemon {
    #[command(flatten)]
    pub place: Place,
    #[arg(long)]
    pub name: String,
}

/// Starts a command inside a container.
#[derive(Args, Clone, Debug)]
pub struct Exec {
    pub rights: String,
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// Runs a subcommand. Works on a thread of its own, so that it may be called from inside an async runtime too.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    std::thread::Builder::new()
        .name("local".to_owned())
        .spawn(move || dispatch(command))?
        .join()
        .map_err(|_| anyhow::anyhow!("osm local: internal error (see above)"))?
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(options) => up::up(&options),
        Command::Down(options) => down::down(&options),
        Command::Status(place) => status::status(&place),
        Command::Image(options) => image::image(&options),
        Command::Outside(options) => outside::outside(&options),
        Command::Supervise(options) => supervise::supervise(&options),
        Command::Daemon(options) => daemon::daemon(&options),
        // The caller may not see stderr: it is the container's. The complaint has gone to the node.
        Command::Container => {
            Ok(enter::container().map_or(ExitCode::from(128), |()| ExitCode::SUCCESS))
        }
        Command::Exec(options) => exec(&options),
    }
}

/// Becomes a command inside a container. Exit codes as container runtimes have them: 126 not executable, 127 not found.
fn exec(options: &Exec) -> anyhow::Result<ExitCode> {
    let rights = serde_json::from_str(&options.rights)?;
    let Err(error) = enter::execute(&rights, &options.command) else {
        return Ok(ExitCode::SUCCESS);
    };
    eprintln!("{error}");
    Ok(ExitCode::from(
        if error.kind() == std::io::ErrorKind::NotFound {
            127
        } else {
            126
        },
    ))
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_secs)
        .map_err(|_| format!("{text:?} is not a number of seconds"))
}
