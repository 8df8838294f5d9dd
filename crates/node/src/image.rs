//! Image names and the programs they stand for: there is no registry, containers are programs of this machine.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::container::Bind;

/// What an image is here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Program and arguments when the pod gives no command, as an image's ENTRYPOINT and CMD.
    #[serde(default)]
    pub command: Vec<String>,
    /// Programs and folders of the host shown in the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Bind>,
}

/// The images that users added.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    images: BTreeMap<String, Image>,
}

/// Upstream images that are nothing but a root file system with the usual tools: the host's serves as well.
/// (Names without registry and tag.)
const PLAIN: &[&str] = &[
    "alpine",
    "alpine/curl",
    "bash",
    "busybox",
    "curlimages/curl",
    "debian",
    "nginx",
    "nicolaka/netshoot",
    "python",
    "redis",
    "postgres",
    "ubuntu",
];
/// Programs of this project; they lie beside our own executable.
const OWN: &[&str] = &["osm-proxy", "osm-apps"];
/// Where a container finds added programs.
const PROGRAMS: &str = "/usr/local/bin";

// === impl Table ===

impl Table {
    /// Reads the table; a missing file is an empty table.
    pub fn read(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| io::Error::other(format!("{}: {e}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", path.display()),
            )),
        }
    }

    /// Writes the table; readers see the old or the new one.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let draft = path.with_extension("new");
        std::fs::write(&draft, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(draft, path)
    }

    /// Lets `name` stand for a program. The program is shown in the container in /usr/local/bin.
    pub fn add(
        &mut self,
        name: &str,
        program: Option<&Path>,
        arguments: Vec<String>,
        folders: &[PathBuf],
    ) -> io::Result<()> {
        let mut image = Image::default();
        if let Some(program) = program {
            let source = find(program)?;
            let file_name = source
                .file_name()
                .ok_or_else(|| io::Error::other(format!("{}: not a program", source.display())))?;
            // A program of a shown folder keeps its place there: it may look for its neighbours.
            let inside = folders
                .iter()
                .any(|f| f.canonicalize().is_ok_and(|f| source.starts_with(f)));
            let target = if inside {
                source.clone()
            } else {
                Path::new(PROGRAMS).join(file_name)
            };
            image.command = std::iter::once(target.display().to_string())
                .chain(arguments)
                .collect();
            if !inside {
                image.mounts.push(Bind {
                    source,
                    target,
                    read_only: true,
                });
            }
        }
        for folder in folders {
            let source = folder
                .canonicalize()
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", folder.display())))?;
            image.mounts.push(Bind {
                target: source.clone(),
                source,
                read_only: true,
            });
        }
        self.images.insert(name.to_owned(), image);
        Ok(())
    }

    /// Forgets a name; false if it was not there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.images.remove(name).is_some()
    }

    /// All names with what they stand for.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Image)> {
        self.images.iter()
    }

    /// What `name` stands for; `executable` is ours, its folder holds the project's other programs.
    pub fn resolve(&self, name: &str, executable: &Path) -> Result<Image, String> {
        let bare = without_tag(name);
        let short = without_registry(bare);
        for candidate in [name, bare, short] {
            if let Some(image) = self.images.get(candidate) {
                return Ok(image.clone());
            }
        }
        let last = short.rsplit('/').next().unwrap_or(short);
        if last == "osm" {
            return Ok(own("osm", executable.to_owned()));
        }
        if OWN.contains(&last) {
            return match beside(executable, last) {
                Some(path) => Ok(own(last, path)),
                None => Err(format!(
                    "image {name:?}: program {last} is not beside {}; build it (cargo build) or: osm local image add {bare} PROGRAM",
                    executable.display()
                )),
            };
        }
        if PLAIN.contains(&short) {
            return Ok(Image::default());
        }
        Err(format!(
            "image {name:?} is unknown to this cluster, which has no registry; map it to a program of this machine: osm local image add {bare} PROGRAM [ARGS…]"
        ))
    }
}

fn own(name: &str, source: PathBuf) -> Image {
    let target = Path::new(PROGRAMS).join(name);
    Image {
        command: vec![target.display().to_string()],
        mounts: vec![Bind {
            source,
            target,
            read_only: true,
        }],
    }
}

/// A program in the folder of ours; when ours is an example or a test, one folder up.
fn beside(executable: &Path, name: &str) -> Option<PathBuf> {
    executable
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn without_tag(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    match name.rsplit_once(':') {
        // A colon before the last slash belongs to a registry's port.
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

fn without_registry(name: &str) -> &str {
    let short = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => rest,
        _ => name,
    };
    short.strip_prefix("library/").unwrap_or(short)
}

/// A program by path, or by name in PATH.
fn find(program: &Path) -> io::Result<PathBuf> {
    let missing = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("program {} not found", program.display()),
        )
    };
    if program.components().count() > 1 {
        return program.canonicalize().map_err(|_| missing());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|p| p.is_file());
    found.ok_or_else(missing)?.canonicalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_any_registry_and_tag() {
        let mut table = Table::default();
        table
            .add(
                "kennethreitz/httpbin",
                Some(Path::new("/bin/true")),
                vec!["-x".into()],
                &[],
            )
            .unwrap();
        let exe = Path::new("/nowhere/osm");
        let ours = table
            .resolve("docker.io/kennethreitz/httpbin:latest", exe)
            .unwrap();
        assert_eq!(ours.command[1..], ["-x"]);
        assert_eq!(table.resolve("curlimages/curl", exe), Ok(Image::default()));
        assert_eq!(
            table.resolve("docker.io/library/nginx:1.25", exe),
            Ok(Image::default())
        );
        assert_eq!(
            table
                .resolve("localhost:5000/openservicemesh/osm:v1", exe)
                .unwrap()
                .mounts[0]
                .source,
            exe
        );
        assert!(
            table
                .resolve("osm-proxy:dev", exe)
                .unwrap_err()
                .contains("osm-proxy is not beside")
        );
        let unknown = table.resolve("acme/rocket:v2", exe).unwrap_err();
        assert!(
            unknown.contains("osm local image add acme/rocket PROGRAM"),
            "{unknown}"
        );
    }
}
