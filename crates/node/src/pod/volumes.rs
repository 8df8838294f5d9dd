//! Volumes: files made from API objects, updated atomically the way the kubelet does it (`..data` link), and folders.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, PodSpec, Secret,
    ServiceAccountTokenProjection, Volume,
};

use super::facts::Facts;

/// Mode of files when the pod says nothing.
const DEFAULT_MODE: i32 = 0o644;

/// Files of a volume: relative path → content and mode.
pub type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An empty folder that containers share.
    Empty,
    /// A folder or file of the host.
    Host(PathBuf),
    /// Files that follow API objects.
    Files(Files),
}

/// A token that a projected volume asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenRequest {
    /// Audience; empty: the API server.
    pub audience: String,
    /// Life time in seconds.
    pub seconds: i64,
}

/// Tokens got so far.
pub type Tokens = BTreeMap<TokenRequest, String>;

// === impl TokenRequest ===

impl TokenRequest {
    /// What a projection asks for.
    pub fn of(projection: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: projection.audience.clone().unwrap_or_default(),
            seconds: projection.expiration_seconds.unwrap_or(3600).max(600),
        }
    }
}

/// All tokens that a pod's volumes ask for.
pub fn token_requests(spec: &PodSpec) -> Vec<TokenRequest> {
    let projected = spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|v| v.projected.as_ref());
    let sources = projected.flat_map(|p| p.sources.iter().flatten());
    let mut requests: Vec<_> = sources
        .filter_map(|s| s.service_account_token.as_ref())
        .map(TokenRequest::of)
        .collect();
    requests.sort();
    requests.dedup();
    requests
}

/// What a volume holds now; the error is the kubelet's text.
pub fn content(facts: &Facts, volume: &Volume, tokens: &Tokens) -> Result<Content, String> {
    if let Some(source) = &volume.host_path {
        return host_path(source).map(Content::Host);
    }
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        config_map_files(
            facts,
            &source.name,
            source.items.as_deref(),
            source.optional,
            mode,
            &mut files,
        )?;
    } else if let Some(source) = &volume.secret {
        let (name, mode) = (
            source.secret_name.as_deref().unwrap_or_default(),
            source.default_mode.unwrap_or(DEFAULT_MODE),
        );
        secret_files(
            facts,
            name,
            source.items.as_deref(),
            source.optional,
            mode,
            &mut files,
        )?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        downward_files(facts, source.items.iter().flatten(), mode, &mut files)?;
    } else if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for part in source.sources.iter().flatten() {
            if let Some(map) = &part.config_map {
                config_map_files(
                    facts,
                    &map.name,
                    map.items.as_deref(),
                    map.optional,
                    mode,
                    &mut files,
                )?;
            }
            if let Some(secret) = &part.secret {
                secret_files(
                    facts,
                    &secret.name,
                    secret.items.as_deref(),
                    secret.optional,
                    mode,
                    &mut files,
                )?;
            }
            if let Some(downward) = &part.downward_api {
                downward_files(facts, downward.items.iter().flatten(), mode, &mut files)?;
            }
            if let Some(token) = &part.service_account_token {
                let value = tokens
                    .get(&TokenRequest::of(token))
                    .ok_or("failed to fetch token")?;
                insert(&mut files, &token.path, value.clone().into_bytes(), mode)?;
            }
        }
    } else if volume.empty_dir.is_some()
        || volume.persistent_volume_claim.is_none() && volume.csi.is_none()
    {
        return Ok(Content::Empty);
    } else {
        return Err("this node has no such kind of volume (it has emptyDir, hostPath, configMap, secret, projected, downwardAPI)".into());
    }
    Ok(Content::Files(files))
}

fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let made = match kind {
        "DirectoryOrCreate" => fs::create_dir_all(&path),
        "FileOrCreate" if !path.exists() => fs::File::create(&path).map(drop),
        _ => Ok(()),
    };
    made.map_err(|e| format!("hostPath {}: {e}", source.path))?;
    let right = match kind {
        "Directory" | "DirectoryOrCreate" => path.is_dir(),
        "File" | "FileOrCreate" => path.is_file(),
        // Container runtimes make a missing folder when no type is asked for.
        "" => path.exists() || fs::create_dir_all(&path).is_ok(),
        _ => path.exists(),
    };
    if right {
        Ok(path)
    } else {
        Err(format!(
            "hostPath type check failed: {} is not a {kind}",
            source.path
        ))
    }
}

fn config_map_files(
    facts: &Facts,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
    files: &mut Files,
) -> Result<(), String> {
    match facts.config_maps.get(name) {
        Some(map) => keyed(
            config_map_data(map),
            "configmap references non-existent config key",
            items,
            optional,
            mode,
            files,
        ),
        None if optional == Some(true) => Ok(()),
        None => Err(format!("configmap {name:?} not found")),
    }
}

fn config_map_data(map: &ConfigMap) -> BTreeMap<&str, Vec<u8>> {
    let text = map
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.clone().into_bytes()));
    text.chain(
        map.binary_data
            .iter()
            .flatten()
            .map(|(k, v)| (k.as_str(), v.0.clone())),
    )
    .collect()
}

fn secret_files(
    facts: &Facts,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
    files: &mut Files,
) -> Result<(), String> {
    let data = |secret: &Secret| -> BTreeMap<String, Vec<u8>> {
        secret
            .data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.0.clone()))
            .collect()
    };
    match facts.secrets.get(name) {
        Some(secret) => {
            let data = data(secret);
            let data = data.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
            keyed(
                data,
                "references non-existent secret key",
                items,
                optional,
                mode,
                files,
            )
        }
        None if optional == Some(true) => Ok(()),
        None => Err(format!("secret {name:?} not found")),
    }
}

fn keyed(
    data: BTreeMap<&str, Vec<u8>>,
    absent: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
    files: &mut Files,
) -> Result<(), String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        for (key, value) in data {
            insert(files, key, value, mode)?;
        }
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(value) => insert(files, &item.path, value.clone(), item.mode.unwrap_or(mode))?,
            None if optional == Some(true) => {}
            None => return Err(format!("{absent}: {}", item.key)),
        }
    }
    Ok(())
}

fn downward_files<'a>(
    facts: &Facts,
    items: impl Iterator<Item = &'a DownwardAPIVolumeFile>,
    mode: i32,
    files: &mut Files,
) -> Result<(), String> {
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => facts.field(selector)?,
            (None, Some(selector)) => facts.resource(selector, None)?,
            (None, None) => String::new(),
        };
        insert(
            files,
            &item.path,
            value.into_bytes(),
            item.mode.unwrap_or(mode),
        )?;
    }
    Ok(())
}

/// Paths come from users: nothing may leave the volume or look like our own links.
fn insert(files: &mut Files, path: &str, content: Vec<u8>, mode: i32) -> Result<(), String> {
    let parts: Vec<_> = Path::new(path).components().collect();
    let inside = !parts.is_empty() && parts.iter().all(|p| matches!(p, Component::Normal(_)));
    if !inside || path.starts_with("..") {
        return Err(format!("invalid path {path:?} in a volume"));
    }
    files.insert(
        path.to_owned(),
        (content, u32::try_from(mode).unwrap_or(0o644) & 0o777),
    );
    Ok(())
}

/// Makes the folder hold exactly `files`. Readers see the old set or the new one, never a mixture.
/// With `group` the files belong to it and it may read them.
pub fn write(folder: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let stamp = jiff::Timestamp::now().as_nanosecond();
    let fresh_name = format!("..{stamp}");
    let fresh = folder.join(&fresh_name);
    fs::create_dir(&fresh)?;
    for (path, (content, mode)) in files {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content)?;
        let mode = if group.is_some() { mode | 0o440 } else { *mode };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    if let Some(group) = group {
        give_to_group(folder, group, false)?;
    }
    let data = folder.join("..data");
    let old = fs::read_link(&data).ok();
    let draft = folder.join("..data_tmp");
    let _ = fs::remove_file(&draft);
    symlink(&fresh_name, &draft)?;
    fs::rename(&draft, &data)?;
    let heads: std::collections::BTreeSet<&str> =
        files.keys().filter_map(|p| p.split('/').next()).collect();
    for head in &heads {
        let link = folder.join(head);
        if !link.is_symlink() {
            symlink(format!("..data/{head}"), link)?;
        }
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !heads.contains(&*name) {
            fs::remove_file(entry.path())?;
        }
    }
    match old {
        Some(old) => fs::remove_dir_all(folder.join(old)),
        None => Ok(()),
    }
}

/// securityContext.fsGroup: everything in the folder belongs to the group, new files too.
pub fn give_to_group(path: &Path, group: u32, writable: bool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    nix::unistd::chown(path, None, Some(group.into()))?;
    let mut mode = metadata.mode() | if writable { 0o660 } else { 0o440 };
    if metadata.is_dir() {
        mode |= 0o2110;
        for entry in fs::read_dir(path)? {
            give_to_group(&entry?.path(), group, writable)?;
        }
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts() -> Facts {
        Facts {
            config_maps: BTreeMap::from([(
                "cm".to_owned(),
                serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).unwrap(),
            )]),
            ..Facts::default()
        }
    }

    fn files_of(volume: serde_json::Value) -> Result<Vec<String>, String> {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let tokens = Tokens::from([(
            TokenRequest {
                audience: "mesh".into(),
                seconds: 3600,
            },
            "jwt".into(),
        )]);
        match content(&facts(), &volume, &tokens)? {
            Content::Files(files) => Ok(files
                .iter()
                .map(|(p, (c, m))| format!("{p}={} {m:o}", String::from_utf8_lossy(c)))
                .collect()),
            other => Ok(vec![format!("{other:?}")]),
        }
    }

    #[test]
    fn volumes_hold_what_their_sources_say() {
        let cases = [
            (json!({"name": "v", "emptyDir": {}}), Ok(vec!["Empty"])),
            (
                json!({"name": "v", "configMap": {"name": "cm"}}),
                Ok(vec!["a=1 644", "b=2 644"]),
            ),
            (
                json!({"name": "v", "configMap": {"name": "cm", "defaultMode": 256, "items": [{"key": "b", "path": "x/y"}]}}),
                Ok(vec!["x/y=2 400"]),
            ),
            (
                json!({"name": "v", "configMap": {"name": "no"}}),
                Err("configmap \"no\" not found"),
            ),
            (
                json!({"name": "v", "configMap": {"name": "no", "optional": true}}),
                Ok(vec![]),
            ),
            (
                json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "b", "path": "../y"}]}}),
                Err("invalid path \"../y\" in a volume"),
            ),
            (
                json!({"name": "v", "secret": {"secretName": "no"}}),
                Err("secret \"no\" not found"),
            ),
            (
                json!({"name": "v", "projected": {"sources": [
                    {"serviceAccountToken": {"audience": "mesh", "expirationSeconds": 3600, "path": "token"}},
                    {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca"}]}}]}}),
                Ok(vec!["ca=1 644", "token=jwt 644"]),
            ),
            (
                json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
                Err("failed to fetch token"),
            ),
        ];
        for (volume, expected) in cases {
            let expected = expected
                .map(|v| v.into_iter().map(str::to_owned).collect())
                .map_err(str::to_owned);
            assert_eq!(files_of(volume.clone()), expected, "{volume}");
        }
    }

    #[test]
    fn an_update_replaces_the_whole_set_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let set = |list: &[(&str, &str)]| -> Files {
            list.iter()
                .map(|(p, c)| ((*p).to_owned(), (c.as_bytes().to_vec(), 0o644)))
                .collect()
        };
        write(folder.path(), &set(&[("a", "1"), ("d/b", "2")]), None).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("d/b")).unwrap(), "2");
        write(folder.path(), &set(&[("a", "3")]), None).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("a")).unwrap(), "3");
        assert!(!folder.path().join("d").exists());
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 3, "a, ..data and one generation: {names:?}");
    }
}
