//! Network namespaces with a name, and work done inside them.
//!
//! `setns` and `unshare` act on a thread, so everything here runs on a fresh thread that ends afterwards:
//! a thread of the async runtime must never change its namespace.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Sysctls of every namespace we make: duplicate address detection would leave IPv6 unusable for a second, and
/// containers without capabilities may bind low ports as they may under today's container runtimes.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
];

/// A network namespace held by a bind mount; it goes when this value is dropped and no process is left in it.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: Arc<File>,
}

impl Netns {
    /// Makes namespace `name` in folder `dir` (as `ip netns add` would in /run/netns).
    pub fn create(dir: &Path, name: &str) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(name);
        File::create(&path)?;
        let target = path.clone();
        on_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            sysctls(SYSCTLS)?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            Ok(())
        })
        .inspect_err(|_| drop(std::fs::remove_file(&path)))?;
        let file = Arc::new(File::open(&path)?);
        Ok(Self { path, file })
    }

    /// The namespace as a file, for `setns` and for moving links.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Runs `work` inside the namespace on a thread of its own. Blocks.
    pub fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let file = self.file.clone();
        on_thread(move || {
            setns(&*file, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// Connects to an address as seen from inside the namespace. Blocks.
    pub fn connect(&self, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        self.enter(move || TcpStream::connect_timeout(&address, timeout))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Errors leave a mount that vanishes with the cluster's mount namespace.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes sysctls of the calling thread's network namespace.
pub fn sysctls(values: &[(&str, &str)]) -> io::Result<()> {
    for (name, value) in values {
        match std::fs::write(Path::new("/proc/sys").join(name), value) {
            // A kernel without IPv6 has no such files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("sysctl {name}={value}: {error}"),
                ));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Runs `work` on a fresh thread and waits for it.
pub fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    std::thread::Builder::new()
        .name("namespace".to_owned())
        .spawn(work)?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("thread in a namespace panicked")))
}
