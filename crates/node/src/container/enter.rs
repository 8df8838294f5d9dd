//! The last steps before a container's program runs, in the process that becomes it (hidden subcommand `osm local container`).
//!
//! It is the first process of its pid namespace and alone in its mount namespace; it builds the root file system,
//! moves into it, gives up rights and executes the program. The order comes over standard input, and so does the answer
//! go back: a failure is written to it, success is its closing by `exec`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknod};
use nix::unistd::{
    chdir, dup2_stderr, dup2_stdin, dup2_stdout, fchown, pivot_root, sethostname, setsid,
};
use serde::{Deserialize, Serialize};

use super::mountpoints;
use super::rights::Rights;

/// Where the host's root file system is while the container's is being built.
const OLD_ROOT: &str = "/.host";
/// Devices every container has.
const DEVICES: &[(&str, u64, u64)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// A container's root file system and program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Folder of this container on the cluster's tmpfs.
    pub folder: PathBuf,
    /// Host name.
    pub hostname: String,
    /// Small files of the root file system with their content (/etc/hosts …).
    pub files: Vec<(PathBuf, String)>,
    /// What is mounted over it, in order.
    pub mounts: Vec<Bind>,
    /// securityContext.readOnlyRootFilesystem.
    pub read_only_root: bool,
    /// securityContext.privileged: host devices, writable /proc/sys and /sys.
    pub privileged: bool,
    /// Rights of the program.
    pub rights: Rights,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Folder or file outside the container.
    pub source: PathBuf,
    /// Where the container sees it.
    pub target: PathBuf,
    /// The container cannot write to it.
    pub read_only: bool,
}

/// Entry point of the hidden subcommand: does not return on success.
pub fn container() -> io::Result<()> {
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    let mut channel = File::from(channel);
    let result = (|| {
        let mut text = String::new();
        channel.read_to_string(&mut text)?;
        let order: Order = serde_json::from_str(&text).map_err(io::Error::other)?;
        build(&order)?;
        dup2_stdin(File::open("/dev/null")?)?;
        execute(&order.rights, &order.command)
    })();
    if let Err(error) = &result {
        channel.write_all(error.to_string().as_bytes())?;
    }
    result
}

/// Gives up rights and becomes the program. Returns only on failure.
pub fn execute(rights: &Rights, command: &[String]) -> io::Result<()> {
    if let Some(terminal) = &rights.terminal {
        // A session leader without a terminal gets the first one it opens.
        setsid()?;
        let slave = OpenOptions::new().read(true).write(true).open(terminal)?;
        dup2_stdin(&slave)?;
        dup2_stdout(&slave)?;
        dup2_stderr(&slave)?;
    }
    own_pipes(rights.uid);
    let directory = if rights.directory.is_empty() {
        "/"
    } else {
        &rights.directory
    };
    chdir(directory).map_err(|e| at("chdir to workingDir", Path::new(directory), e.into()))?;
    rights.apply().map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("user {} group {}: {e}", rights.uid, rights.gid),
        )
    })?;
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::other("no command specified"))?;
    let error = Command::new(program).args(arguments).exec();
    // The words of container runtimes, which users search for.
    let text = match error.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => {
            "executable file not found in $PATH".to_owned()
        }
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    Err(io::Error::new(
        error.kind(),
        format!("exec: {program:?}: {text}"),
    ))
}

/// Gives our pipes to the user, as container runtimes do: or /dev/stdout could not be opened by it.
fn own_pipes(uid: u32) {
    let is_pipe = |fd: BorrowedFd<'_>| {
        fstat(fd).is_ok_and(|s| {
            SFlag::from_bits_truncate(s.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFIFO
        })
    };
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        // Never a device: that would be everybody's.
        if is_pipe(fd) {
            let _ = fchown(fd, Some(uid.into()), None);
        }
    }
}

fn build(order: &Order) -> io::Result<()> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    sethostname(&order.hostname)?;
    // Links in a source path are meant in the host's root, so they are resolved before it is left.
    let mut mounts = order.mounts.clone();
    for bind in &mut mounts {
        bind.source = bind
            .source
            .canonicalize()
            .map_err(|e| at("mount source", &bind.source, e))?;
    }
    let (upper, work, merged) = (
        order.folder.join("upper"),
        order.folder.join("work"),
        order.folder.join("merged"),
    );
    for folder in [&upper, &work, &merged, &upper.join(&OLD_ROOT[1..])] {
        fs::create_dir_all(folder).map_err(|e| at("create", folder, e))?;
    }
    for (path, content) in &order.files {
        let path = upper.join(path.strip_prefix("/").unwrap_or(path));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content).map_err(|e| at("write", &path, e))?;
    }
    if mountpoints::needed() {
        for bind in &mounts {
            mountpoints::make(Path::new("/"), &upper, &bind.target, bind.source.is_dir())
                .map_err(|e| at("mountPath", &bind.target, e))?;
        }
    }
    overlay(&upper, &work, &merged).map_err(|e| at("mount overlay", &merged, e))?;
    let old_root = merged.join(&OLD_ROOT[1..]);
    pivot_root(&merged, &old_root).map_err(|e| at("pivot_root", &merged, e.into()))?;
    chdir("/")?;
    system_mounts(order.privileged)?;
    if !order.rights.directory.is_empty() {
        fs::create_dir_all(&order.rights.directory)
            .map_err(|e| at("workingDir", Path::new(&order.rights.directory), e))?;
    }
    for bind in &mounts {
        bind_into(bind)?;
    }
    umount2(OLD_ROOT, MntFlags::MNT_DETACH)?;
    fs::remove_dir(OLD_ROOT)?;
    if order.read_only_root {
        read_only(Path::new("/"))?;
    }
    Ok(())
}

/// Lays a writable layer over the host's root.
fn overlay(upper: &Path, work: &Path, merged: &Path) -> io::Result<()> {
    match layer(Path::new("/"), upper, work, merged) {
        // In a user namespace the mounts below / are locked, and nothing may look beneath them.
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            piecewise(upper, work, merged)
        }
        other => other,
    }
}

/// The same, folder by folder of the root.
fn piecewise(upper: &Path, work: &Path, merged: &Path) -> io::Result<()> {
    mount(
        Some("tmpfs"),
        merged,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .map_err(|e| at("mount", merged, e.into()))?;
    fs::create_dir(merged.join(&OLD_ROOT[1..]))?;
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let (name, target) = (entry.file_name(), merged.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, target)?;
        } else if kind.is_dir() {
            fs::create_dir(&target)?;
            let (upper, work) = (upper.join(&name), work.join(&name));
            fs::create_dir_all(&upper)?;
            fs::create_dir_all(&work)?;
            match layer(&entry.path(), &upper, &work, &target) {
                // Something is mounted in it (/dev, /proc …): it is empty here.
                Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn layer(lower: &Path, upper: &Path, work: &Path, merged: &Path) -> io::Result<()> {
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    // In a user namespace overlayfs may keep its marks only in user attributes, which older tmpfs does not have.
    let plain = mount(
        Some("overlay"),
        merged,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    );
    let Err(error) = plain else { return Ok(()) };
    let user = format!("{options},userxattr");
    if error == Errno::EPERM
        && mount(
            Some("overlay"),
            merged,
            Some("overlay"),
            MsFlags::empty(),
            Some(user.as_str()),
        )
        .is_ok()
    {
        return Ok(());
    }
    tracing::debug!(lower = %lower.display(), %error, "overlay");
    Err(error.into())
}

/// /proc, /sys, /dev, /tmp and /run, fresh; the host's are not shown.
fn system_mounts(privileged: bool) -> io::Result<()> {
    let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    fresh("proc", "/proc", hardened, None)?;
    if !privileged && let Err(error) = read_only_copy(Path::new("/proc/sys")) {
        return Err(at("mount read-only", Path::new("/proc/sys"), error));
    }
    let sys = if privileged {
        hardened
    } else {
        hardened | MsFlags::MS_RDONLY
    };
    if fresh("sysfs", "/sys", sys, None).is_err() {
        // In a user namespace a fresh sysfs is refused while parts of the host's are covered.
        let host = PathBuf::from(format!("{OLD_ROOT}/sys"));
        mount(
            Some(&host),
            "/sys",
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )
        .map_err(|e| at("mount", Path::new("/sys"), e.into()))?;
    }
    if privileged {
        let host = PathBuf::from(format!("{OLD_ROOT}/dev"));
        mount(
            Some(&host),
            "/dev",
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )
        .map_err(|e| at("mount", Path::new("/dev"), e.into()))?;
    } else {
        devices()?;
    }
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    fresh("tmpfs", "/tmp", plain, Some("mode=1777"))?;
    fresh("tmpfs", "/run", plain, Some("mode=755"))?;
    // /var/run and /run/lock are where old programs look.
    fs::create_dir_all("/run/lock")?;
    fs::set_permissions("/run/lock", fs::Permissions::from_mode(0o1777))
}

fn devices() -> io::Result<()> {
    fresh("tmpfs", "/dev", MsFlags::MS_NOSUID, Some("mode=755"))?;
    for (name, major, minor) in DEVICES {
        let (host, own) = (
            PathBuf::from(format!("{OLD_ROOT}/dev/{name}")),
            PathBuf::from(format!("/dev/{name}")),
        );
        if mknod(&own, SFlag::S_IFCHR, Mode::empty(), makedev(*major, *minor)).is_ok() {
            // Set apart, for the umask takes bits away.
            fs::set_permissions(&own, fs::Permissions::from_mode(0o666))?;
            continue;
        }
        // In a user namespace devices cannot be made, only borrowed.
        File::create(&own)?;
        mount(
            Some(&host),
            &own,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|e| at("mount", &own, e.into()))?;
    }
    fs::create_dir("/dev/pts")?;
    fresh(
        "devpts",
        "/dev/pts",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("newinstance,ptmxmode=0666,mode=620"),
    )?;
    fs::create_dir("/dev/shm")?;
    fresh(
        "tmpfs",
        "/dev/shm",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=1777,size=64m"),
    )?;
    for (link, to) in [
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(to, link)?;
    }
    Ok(())
}

fn fresh(kind: &str, target: &str, flags: MsFlags, data: Option<&str>) -> io::Result<()> {
    fs::create_dir_all(target)?;
    mount(Some(kind), target, Some(kind), flags, data)
        .map_err(|e| at("mount", Path::new(target), e.into()))
}

fn bind_into(bind: &Bind) -> io::Result<()> {
    let source = Path::new(OLD_ROOT).join(bind.source.strip_prefix("/").unwrap_or(&bind.source));
    let target = &bind.target;
    if source.is_dir() {
        fs::create_dir_all(target).map_err(|e| at("mountPath", target, e))?;
    } else if !target.exists() {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|e| at("mountPath", target, e))?;
        }
        File::create(target).map_err(|e| at("mountPath", target, e))?;
    }
    mount(
        Some(&source),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(|e| at("mountPath", target, e.into()))?;
    if bind.read_only {
        read_only(target)
    } else {
        Ok(())
    }
}

fn read_only_copy(path: &Path) -> io::Result<()> {
    mount(
        Some(path),
        path,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        None::<&str>,
        path,
        None::<&str>,
        flags | hardened,
        None::<&str>,
    )?;
    Ok(())
}

fn read_only(path: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    // A user namespace may not clear flags the host set on the mount, so the usual ones are tried as well.
    let extra = [
        MsFlags::empty(),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
    ];
    let mut last = io::Error::other("not tried");
    for extra in extra {
        match mount(
            None::<&str>,
            path,
            None::<&str>,
            flags | extra,
            None::<&str>,
        ) {
            Ok(()) => return Ok(()),
            Err(error) => last = error.into(),
        }
    }
    Err(at("mount read-only", path, last))
}

fn at(what: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}
