//! `osm version`.

use clap::Args;
use serde::Deserialize;

use crate::cluster::connect;
use crate::meshes::{self, UNKNOWN};
use crate::table;

/// Commit this program was built from; set by the build, if it knows.
const GIT_COMMIT: Option<&str> = option_env!("OSM_GIT_COMMIT");
/// When this program was built; set by the build, if it wants to say.
const BUILD_DATE: Option<&str> = option_env!("OSM_BUILD_DATE");

/// `osm version`.
#[derive(Args)]
pub struct VersionArgs {
    /// Only this program's version, without asking the cluster
    #[arg(long)]
    client_only: bool,
    /// Only the version, without commit and date
    #[arg(long)]
    version_only: bool,
}

/// What the control plane says of itself.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    version: String,
    #[serde(default)]
    git_commit: String,
    #[serde(default)]
    build_date: String,
}

/// Runs it.
pub async fn run(args: VersionArgs) -> anyhow::Result<()> {
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    if args.version_only {
        println!("CLI Version: {version}");
    } else {
        let [commit, date] = [GIT_COMMIT, BUILD_DATE].map(Option::unwrap_or_default);
        println!(
            "CLI Version: version.Info{{Version:{version:?}, GitCommit:{commit:?}, BuildDate:{date:?}}}"
        );
    }
    if args.client_only {
        return Ok(());
    }
    let client = connect().await?;
    let mut rows = Vec::new();
    for mesh in meshes::find(&client).await? {
        let info = meshes::ask_controller(&client, &mesh, "/version")
            .await
            .ok()
            .and_then(|answer| serde_json::from_str::<Info>(&answer).ok());
        let of = |field: fn(&Info) -> &String| {
            info.as_ref()
                .map_or(UNKNOWN.to_owned(), |info| field(info).clone())
        };
        rows.push([
            mesh.name,
            mesh.namespace,
            of(|info| &info.version),
            of(|info| &info.git_commit),
            of(|info| &info.build_date),
        ]);
    }
    if rows.is_empty() {
        println!("Unable to find OSM control plane in the cluster");
    } else if args.version_only {
        let rows: Vec<[String; 3]> = rows
            .into_iter()
            .map(|[name, namespace, version, ..]| [name, namespace, version])
            .collect();
        print!(
            "\n{}",
            table::render(["MESH NAME", "MESH NAMESPACE", "VERSION"], &rows)
        );
    } else {
        print!(
            "\n{}",
            table::render(
                [
                    "MESH NAME",
                    "MESH NAMESPACE",
                    "VERSION",
                    "GIT COMMIT",
                    "BUILD DATE"
                ],
                &rows
            )
        );
    }
    Ok(())
}
