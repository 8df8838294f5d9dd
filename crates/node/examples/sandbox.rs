//! One pod without an API server: `unshare -nmpf --mount-proc sandbox UID [exec|tty] COMMAND…`.
//! For this crate's tests and for trying what a container can see and do.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use nix::mount::{MsFlags, mount};
use node::NodeConfig;
use node::container::{Bind, Order, Rights, process};
use node::network::Network;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

#[derive(Parser)]
enum Cli {
    /// The hidden subcommands that containers are started with
    #[command(subcommand)]
    Local(node::local::Command),
    /// Run a command in a container and show its output
    Run {
        #[arg(long, default_value_t = 0)]
        uid: u32,
        /// Capabilities to add
        #[arg(long)]
        add: Vec<String>,
        /// SOURCE:TARGET, read-only
        #[arg(long)]
        mount: Vec<String>,
        #[arg(long)]
        read_only_root: bool,
        /// Start `sleep` and run the command beside it, on a terminal if `tty`
        #[arg(long)]
        exec: bool,
        #[arg(long)]
        tty: bool,
        #[arg(last = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    dispatch().unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}

fn dispatch() -> anyhow::Result<ExitCode> {
    match Cli::parse() {
        Cli::Local(command) => node::local::run(command),
        Cli::Run {
            uid,
            add,
            mount,
            read_only_root,
            exec,
            tty,
            command,
        } => {
            let rights = Rights {
                uid,
                gid: uid,
                groups: vec![uid],
                capabilities: Some(Rights::bounding_set(&add, &[]).map_err(anyhow::Error::msg)?),
                no_new_privileges: false,
                directory: String::new(),
                terminal: None,
            };
            let binds = mount
                .iter()
                .filter_map(|m| m.split_once(':'))
                .map(|(source, target)| Bind {
                    source: source.into(),
                    target: target.into(),
                    read_only: true,
                });
            let order = Order {
                folder: "/run/osm/c".into(),
                hostname: "pod".to_owned(),
                files: vec![(
                    "/etc/resolv.conf".into(),
                    "nameserver 10.96.0.10\n".to_owned(),
                )],
                mounts: binds.collect(),
                read_only_root,
                privileged: false,
                rights,
                command,
            };
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            runtime.block_on(run(order, exec, tty))
        }
    }
}

async fn run(mut order: Order, exec: bool, tty: bool) -> anyhow::Result<ExitCode> {
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("tmpfs")?;
    let config = NodeConfig::new(
        "/run/osm".into(),
        "/run/osm/logs".into(),
        "/run/osm/images".into(),
        std::env::current_exe()?,
    );
    let network = Network::start(config, "/run/netns".into()).await?;
    let pod = network.attach_pod("pod").await?;
    let command = if exec {
        std::mem::replace(&mut order.command, vec!["sleep".into(), "60".into()])
    } else {
        Vec::new()
    };
    let env = vec![
        ("PATH".to_owned(), std::env::var("PATH")?),
        ("WHERE".to_owned(), "inside".to_owned()),
    ];
    let rights = order.rights.clone();
    let begun = std::time::Instant::now();
    let (process, pipes) =
        process::start_container(Some(pod.netns.file().clone()), order, env.clone()).await?;
    eprintln!("started in {:?}", begun.elapsed());
    let (ended, mut output) = if exec {
        let (command, streams) = process::exec(&process, rights, command, env, tty).await?;
        let ended = command.wait().await;
        let mut output = Vec::new();
        if let Some(terminal) = streams.terminal {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = nix::unistd::read(&terminal, &mut buffer) {
                output.extend_from_slice(&buffer[..n]);
            }
        }
        for pipe in [streams.stdout, streams.stderr].into_iter().flatten() {
            output.extend(all(pipe).await?);
        }
        (ended, output)
    } else {
        let (out, err, ended) = tokio::join!(all(pipes.stdout), all(pipes.stderr), process.wait());
        (ended, [out?, err?].concat())
    };
    output.flush()?;
    std::io::stdout().write_all(&output)?;
    Ok(ExitCode::from(u8::try_from(ended.code)?))
}

async fn all(pipe: OwnedFd) -> anyhow::Result<Vec<u8>> {
    let mut output = Vec::new();
    pipe::Receiver::from_owned_fd(pipe)?
        .read_to_end(&mut output)
        .await?;
    Ok(output)
}
