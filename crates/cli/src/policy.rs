//! `osm policy check-pods`: may one pod call another, and by which policy?

use anyhow::{anyhow, bail};
use api::access::v1alpha3::{IdentityBindingSubject, TrafficTarget};
use api::config::v1alpha2::MeshConfig;
use api::labels::MESH_CONFIG_NAME;
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::cluster::{connect, explain, is_absent};
use crate::environment::Environment;
use crate::pods::{self, PodName};

/// `osm policy`.
#[derive(Subcommand)]
pub enum Command {
    /// Say whether a pod may call another
    CheckPods(CheckPodsArgs),
}

/// `osm policy check-pods`.
#[derive(Args)]
pub struct CheckPodsArgs {
    /// The pod that calls: namespace/pod, or pod in the default namespace
    source: String,
    /// The pod that is called
    destination: String,
}

/// A ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    namespace: String,
    name: String,
}

/// Runs it.
pub async fn run(command: Command, environment: &Environment) -> anyhow::Result<()> {
    let Command::CheckPods(args) = command;
    let (from, to): (PodName, PodName) = (args.source.parse()?, args.destination.parse()?);
    let client = connect().await?;
    let source = account(&client, &from).await?;
    let destination = account(&client, &to).await?;
    let control = &environment.osm_namespace;
    if permissive(&client, control).await? {
        println!(
            "[+] Permissive mode enabled for mesh operated by osm-controller running in '{control}' namespace\n\n \
             [+] Pod '{from}' is allowed to communicate to pod '{to}'"
        );
        return Ok(());
    }
    println!(
        "[+] SMI traffic policy mode enabled for mesh operated by osm-controller running in {control} namespace\n"
    );
    let targets: Api<TrafficTarget> = Api::namespaced(client.clone(), &to.namespace);
    let targets = targets
        .list(&ListParams::default())
        .await
        .map_err(|error| anyhow!("cannot list TrafficTargets: {}", explain(&error)))?;
    let granting = targets
        .iter()
        .find(|target| grants(target, &source, &destination));
    match granting {
        Some(target) => println!(
            " [+] Pod '{from}' is allowed to communicate to pod '{to}' via the SMI TrafficTarget policy {:?} in namespace {}",
            target.metadata.name.as_deref().unwrap_or_default(),
            to.namespace
        ),
        None => println!(
            " [+] Pod '{from}' is not allowed to communicate to pod '{to}', missing SMI TrafficTarget policy"
        ),
    }
    Ok(())
}

/// The identity of a pod of the mesh.
async fn account(client: &Client, name: &PodName) -> anyhow::Result<Account> {
    let pod: Pod = pods::find(client, name).await?;
    if !pods::is_meshed(&pod) {
        bail!(
            "Pod {} in namespace {} is not a part of a mesh",
            name.name,
            name.namespace
        );
    }
    let account = pod.spec.and_then(|spec| spec.service_account_name);
    Ok(Account {
        namespace: name.namespace.clone(),
        name: account
            .filter(|account| !account.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
    })
}

async fn permissive(client: &Client, namespace: &str) -> anyhow::Result<bool> {
    let configs: Api<MeshConfig> = Api::namespaced(client.clone(), namespace);
    match configs.get(MESH_CONFIG_NAME).await {
        Ok(config) => Ok(config.spec.traffic.enable_permissive_traffic_policy_mode),
        Err(error) if is_absent(&error) => bail!(
            "no MeshConfig {MESH_CONFIG_NAME} in namespace {namespace}; where is the control plane? (--osm-namespace)"
        ),
        Err(error) => Err(anyhow!("cannot read the MeshConfig: {}", explain(&error))),
    }
}

/// Does a TrafficTarget of the destination's namespace name both? Whether its routes exist is another question: `osm mesh problems`.
fn grants(target: &TrafficTarget, source: &Account, destination: &Account) -> bool {
    let is = |subject: &IdentityBindingSubject, account: &Account| {
        subject.kind == "ServiceAccount"
            && subject.name == account.name
            && subject.namespace.as_deref() == Some(&account.namespace)
    };
    is(&target.spec.destination, destination)
        && !target.spec.rules.is_empty()
        && target
            .spec
            .sources
            .iter()
            .any(|subject| is(subject, source))
}

#[cfg(test)]
mod tests {
    use api::access::v1alpha3::{TrafficTargetRule, TrafficTargetSpec};

    use super::*;

    #[test]
    fn both_identities_count_with_their_namespaces_and_a_target_without_rules_grants_nothing() {
        let account = |namespace: &str, name: &str| Account {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let subject = |kind: &str, namespace: &str, name: &str| IdentityBindingSubject {
            kind: kind.to_owned(),
            name: name.to_owned(),
            namespace: Some(namespace.to_owned()),
        };
        let mut target = TrafficTarget::new(
            "t",
            TrafficTargetSpec {
                destination: subject("ServiceAccount", "shop", "store"),
                rules: vec![TrafficTargetRule::default()],
                sources: vec![
                    subject("ServiceAccount", "home", "buyer"),
                    subject("User", "home", "thief"),
                ],
            },
        );
        for (source, destination, granted) in [
            (account("home", "buyer"), account("shop", "store"), true),
            (account("away", "buyer"), account("shop", "store"), false),
            (account("home", "thief"), account("shop", "store"), false),
            (account("home", "buyer"), account("shop", "other"), false),
            (account("shop", "store"), account("home", "buyer"), false),
        ] {
            assert_eq!(
                grants(&target, &source, &destination),
                granted,
                "{source:?} {destination:?}"
            );
        }
        target.spec.rules.clear();
        assert!(!grants(
            &target,
            &account("home", "buyer"),
            &account("shop", "store")
        ));
    }
}
