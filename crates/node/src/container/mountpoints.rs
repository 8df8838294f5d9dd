//! Mount points inside a root file system that its maker may not write to.
//!
//! In a user namespace the host's folders belong to nobody, so a mount point cannot be made in `/usr/local/bin` or
//! `/etc` once the layer lies over them. It can be made in the layer before: folders of layer and host merge.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// Top folders that are mounted fresh in every container.
const FRESH: &[&str] = &["proc", "sys", "dev", "tmp", "run"];

/// Are we in a user namespace, where most of the host's files belong to nobody?
pub fn needed() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_whole(&map))
}

/// Does a uid map cover all users, as the first user namespace's does?
fn is_whole(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Makes the mount point `target` in the layer's folder `upper`, unless the host has it or a link leads there.
pub fn make(host: &Path, upper: &Path, target: &Path, folder: bool) -> io::Result<()> {
    let names: Vec<_> = target
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let Some((last, parents)) = names.split_last() else {
        return Ok(());
    };
    if parents
        .first()
        .is_none_or(|top| FRESH.iter().any(|fresh| *top == *fresh))
    {
        return Ok(());
    }
    let (mut below, mut above): (PathBuf, PathBuf) = (host.into(), upper.into());
    let mut modes = Vec::new();
    for name in parents {
        below.push(name);
        above.push(name);
        match fs::symlink_metadata(&below) {
            Ok(found) if found.is_dir() => {
                modes.push((above.clone(), found.permissions().mode() & 0o7777));
            }
            // Made through the link when the container's root is in place.
            Ok(_) => return Ok(()),
            Err(_) => modes.push((above.clone(), 0o755)),
        }
    }
    if fs::symlink_metadata(below.join(last)).is_ok() {
        return Ok(());
    }
    for (path, mode) in modes {
        if !path.exists() {
            fs::create_dir(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
    }
    let point = above.join(last);
    if folder {
        fs::create_dir_all(point)
    } else {
        File::create(point).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_host_lacks_is_made_and_never_over_a_link() {
        let (host, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(host.path().join("etc/there")).unwrap();
        std::os::unix::fs::symlink("/run", host.path().join("var")).unwrap();
        for (target, folder, made) in [
            ("/etc/outside", true, true),
            ("/usr/local/bin/osm", false, true),
            ("/etc/there", true, false),
            ("/var/secrets/token", true, false),
            ("/run/secrets", true, false),
            ("/data", true, false),
        ] {
            make(host.path(), upper.path(), Path::new(target), folder).unwrap();
            let point = upper.path().join(&target[1..]);
            assert_eq!(point.exists(), made, "{target}");
            assert!(!made || point.is_dir() == folder, "{target}");
        }
    }

    #[test]
    fn the_first_user_namespace_maps_everybody() {
        assert!(is_whole("         0          0 4294967295\n"));
        assert!(!is_whole(
            "         0       1000          1\n         1     100000      65536\n"
        ));
    }
}
