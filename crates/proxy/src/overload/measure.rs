//! How much is used of what is scarce.

use std::fs::{metadata, read_dir, read_to_string};
use std::path::{Path, PathBuf};

use super::Resource;
use crate::admin::pages::memory;

const DESCRIPTORS: &str = "/proc/self/fd";
const CGROUPS: &str = "/sys/fs/cgroup";

/// The used share of a resource; none if it cannot be read.
pub(super) fn pressure(resource: &Resource) -> Option<f64> {
    match resource {
        Resource::Heap(limit) => share(memory()?.1, *limit),
        Resource::Cgroup(limit) => {
            let group = Group::own()?;
            let own = group.limit();
            let limit = match (limit, own) {
                (Some(given), Some(own)) => (*given).min(own),
                (given, own) => (*given).or(own)?,
            };
            share(group.used()?, limit)
        }
        Resource::Descriptors(limit) => share(descriptors_open()?, *limit),
        Resource::Injected(file) => {
            let number: f64 = read_to_string(file).ok()?.trim().parse().ok()?;
            (0.0..=1.0).contains(&number).then_some(number)
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Of shares of gigabytes, bytes are no matter.
fn share(used: u64, limit: u64) -> Option<f64> {
    (limit > 0).then(|| used as f64 / limit as f64)
}

/// Files the process has open.
pub fn descriptors_open() -> Option<u64> {
    // Since Linux 6.2 the folder's size is their number; before, it is 0 and they are counted.
    match metadata(DESCRIPTORS).ok()?.len() {
        0 => u64::try_from(read_dir(DESCRIPTORS).ok()?.count()).ok(),
        open => Some(open),
    }
}

/// The limit of memory of the process' control group, if there is one.
pub fn memory_limit() -> Option<u64> {
    Group::own()?.limit()
}

/// A control group's files on memory.
struct Group {
    folder: PathBuf,
    is_second: bool,
}

impl Group {
    /// The process' own group; in a container it is mounted as the root of all.
    fn own() -> Option<Group> {
        let text = read_to_string("/proc/self/cgroup").ok()?;
        let (path, is_second) = path_of(&text)?;
        let root = match is_second {
            true => PathBuf::from(CGROUPS),
            false => Path::new(CGROUPS).join("memory"),
        };
        let own = root.join(path.trim_start_matches('/'));
        let folder = if own.is_dir() { own } else { root };
        Some(Group { folder, is_second })
    }

    fn limit(&self) -> Option<u64> {
        let name = if self.is_second {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        // `max` is no number; version 1 says it by one near the largest there is.
        self.number(name).filter(|limit| *limit < 1 << 60)
    }

    /// What is used and not given up for the asking: file pages not used of late are.
    fn used(&self) -> Option<u64> {
        let (name, idle) = match self.is_second {
            true => ("memory.current", "inactive_file "),
            false => ("memory.usage_in_bytes", "total_inactive_file "),
        };
        let stat = read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let line = stat.lines().find_map(|line| line.strip_prefix(idle));
        let idle = line.and_then(|number| number.trim().parse().ok());
        Some(self.number(name)?.saturating_sub(idle.unwrap_or(0)))
    }

    fn number(&self, name: &str) -> Option<u64> {
        let text = read_to_string(self.folder.join(name)).ok()?;
        text.trim().parse().ok()
    }
}

/// The group in `/proc/self/cgroup`, and whether it is one of version 2.
fn path_of(text: &str) -> Option<(&str, bool)> {
    let mut second = None;
    for line in text.lines() {
        let mut line = line.splitn(3, ':');
        let (number, controllers, path) = (line.next()?, line.next()?, line.next()?);
        if controllers.split(',').any(|one| one == "memory") {
            return Some((path, false));
        }
        if number == "0" && controllers.is_empty() {
            second = Some((path, true));
        }
    }
    second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_in_both_versions() {
        for (text, expected) in [
            ("0::/\n", Some(("/", true))),
            ("0::/kubepods/pod1\n", Some(("/kubepods/pod1", true))),
            ("12:cpu,memory:/a\n0::/\n", Some(("/a", false))),
            ("0::/\n3:memory:/b:c\n", Some(("/b:c", false))),
            ("3:cpu:/b\n", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(path_of(text), expected, "{text:?}");
        }
    }

    #[test]
    fn open_files_are_counted() {
        let before = descriptors_open().unwrap();
        let held: Vec<_> = (0..50)
            .map(|_| std::fs::File::open("/proc/self/stat").unwrap())
            .collect();
        let after = descriptors_open().unwrap();
        // Other tests open and close files meanwhile.
        assert!(
            after >= before.saturating_sub(40) + 10,
            "{before} {after} {}",
            held.len()
        );
    }

    #[test]
    fn what_a_file_says_is_a_share_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pressure");
        let resource = Resource::Injected(file.clone());
        assert_eq!(pressure(&resource), None);
        for (text, expected) in [
            ("0.5\n", Some(0.5)),
            ("1", Some(1.0)),
            ("1.1", None),
            ("x", None),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(pressure(&resource), expected, "{text}");
        }
        assert_eq!(share(1, 0), None);
    }
}
