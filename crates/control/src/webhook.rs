//! The webhook configurations that tell the API server to ask us.

use std::fmt::Debug;
use std::time::Duration;

use api::labels;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta,
};
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::CommonArgs;

/// Path of the mutating webhook.
pub(crate) const MUTATE_PATH: &str = "/mutate-pod-creation";
/// Path of the validating webhook.
pub(crate) const VALIDATE_PATH: &str = "/validate";

/// Seconds that the API server waits for checks without which an object is taken as well.
const ADVICE_TIMEOUT: i32 = 5;

/// Tries at writing a configuration: others may write it at the same time.
const ATTEMPTS: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// `osm-webhook-<mesh>`: pods in namespaces of the mesh go through the injector.
pub(crate) fn mutating(
    args: &CommonArgs,
    name: &str,
    timeout: i32,
    root_pem: &str,
) -> MutatingWebhookConfiguration {
    let webhook = MutatingWebhook {
        name: "osm-inject.k8s.io".into(),
        client_config: client_config(args, "osm-injector", 9090, MUTATE_PATH, root_pem),
        rules: Some(vec![rule(&["CREATE"], "*", &["v1"], &["pods"])]),
        failure_policy: Some("Fail".into()),
        match_policy: Some("Exact".into()),
        namespace_selector: Some(namespaces(args)),
        side_effects: "NoneOnDryRun".into(),
        timeout_seconds: Some(timeout),
        admission_review_versions: vec!["v1".into()],
        ..MutatingWebhook::default()
    };
    MutatingWebhookConfiguration {
        metadata: metadata(args, name, "osm-injector"),
        webhooks: Some(vec![webhook]),
    }
}

/// `osm-validator-mesh-<mesh>`: policies in namespaces of the mesh go through the controller.
pub(crate) fn validating(
    args: &CommonArgs,
    name: &str,
    traffic_targets: bool,
    root_pem: &str,
) -> ValidatingWebhookConfiguration {
    let written = |group: &str, version: &str, resources: &[&str]| {
        rule(&["CREATE", "UPDATE"], group, &[version], resources)
    };
    let targets = written("access.smi-spec.io", "v1alpha3", &["traffictargets"]);
    let mut refused = vec![written(
        "policy.openservicemesh.io",
        "v1alpha1",
        &["ingressbackends", "egresses", "upstreamtrafficsettings"],
    )];
    let mut advised = vec![
        written(
            "specs.smi-spec.io",
            "v1alpha4",
            &["httproutegroups", "tcproutes"],
        ),
        written("policy.openservicemesh.io", "v1alpha1", &["retries"]),
        rule(
            &["CREATE", "UPDATE"],
            "split.smi-spec.io",
            &["v1alpha2", "v1alpha4"],
            &["trafficsplits"],
        ),
    ];
    if traffic_targets {
        refused.push(targets);
    } else {
        advised.push(targets);
    }
    let settings = rule(
        &["CREATE", "UPDATE"],
        "config.openservicemesh.io",
        &["v1alpha1", "v1alpha2"],
        &["meshconfigs"],
    );
    let webhook =
        |name: &str, rules: Vec<RuleWithOperations>, selector: LabelSelector| ValidatingWebhook {
            name: name.into(),
            client_config: client_config(args, "osm-validator", 9093, VALIDATE_PATH, root_pem),
            rules: Some(rules),
            failure_policy: Some("Fail".into()),
            match_policy: Some("Exact".into()),
            namespace_selector: Some(selector),
            side_effects: "NoneOnDryRun".into(),
            admission_review_versions: vec!["v1".into()],
            ..ValidatingWebhook::default()
        };
    // What upstream does not check must not come to depend on a controller that is there: a canary's weights, or
    // the MeshConfig that mends the controller. What slips through is void, and its status says so.
    let lenient = |webhook: ValidatingWebhook| ValidatingWebhook {
        failure_policy: Some("Ignore".into()),
        timeout_seconds: Some(ADVICE_TIMEOUT),
        ..webhook
    };
    ValidatingWebhookConfiguration {
        metadata: metadata(args, name, "osm-controller"),
        webhooks: Some(vec![
            webhook("osm-validator.k8s.io", refused, namespaces(args)),
            lenient(webhook("osm-advisor.k8s.io", advised, namespaces(args))),
            lenient(webhook(
                "osm-control-plane-validator.k8s.io",
                vec![settings],
                control_plane(args),
            )),
        ]),
    }
}

/// Creates the configuration, or makes the existing one say the same. Labels and annotations that
/// others put on it stay.
pub(crate) async fn apply<K>(client: &Client, wanted: K) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let mut attempt = 0;
    loop {
        attempt += 1;
        match apply_once(&api, wanted.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if attempt >= ATTEMPTS => return Err(error.into()),
            Err(error) => {
                let (kind, name) = (K::kind(&()), wanted.name_any());
                tracing::warn!(%error, "{kind} {name}, trying again");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn apply_once<K>(api: &Api<K>, mut wanted: K) -> kube::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = wanted.name_any();
    let Some(existing) = api.get_opt(&name).await? else {
        return api.create(&PostParams::default(), &wanted).await.map(drop);
    };
    let ours = wanted.labels().clone();
    wanted.meta_mut().resource_version = existing.resource_version();
    let mut labels = existing.labels().clone();
    labels.extend(ours);
    *wanted.labels_mut() = labels;
    *wanted.annotations_mut() = existing.annotations().clone();
    api.replace(&name, &PostParams::default(), &wanted)
        .await
        .map(drop)
}

fn metadata(args: &CommonArgs, name: &str, app: &str) -> ObjectMeta {
    let mut all = args.labels();
    all.insert(labels::APP.to_owned(), app.to_owned());
    if args.enable_reconciler {
        all.insert(labels::RECONCILE.to_owned(), "true".to_owned());
    }
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(all),
        ..ObjectMeta::default()
    }
}

fn client_config(
    args: &CommonArgs,
    service: &str,
    port: i32,
    path: &str,
    root_pem: &str,
) -> WebhookClientConfig {
    WebhookClientConfig {
        ca_bundle: Some(ByteString(root_pem.into())),
        service: Some(ServiceReference {
            name: service.into(),
            namespace: args.osm_namespace.clone(),
            path: Some(path.into()),
            port: Some(port),
        }),
        url: None,
    }
}

fn rule(
    operations: &[&str],
    group: &str,
    versions: &[&str],
    resources: &[&str],
) -> RuleWithOperations {
    let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    RuleWithOperations {
        operations: list(operations),
        api_groups: list(&[group]),
        api_versions: list(versions),
        resources: list(resources),
        scope: None,
    }
}

/// The control plane's own namespace.
fn control_plane(args: &CommonArgs) -> LabelSelector {
    let name = (
        "kubernetes.io/metadata.name".to_owned(),
        args.osm_namespace.clone(),
    );
    LabelSelector {
        match_labels: Some([name].into()),
        ..LabelSelector::default()
    }
}

/// Namespaces of the mesh: joined, not ignored, not the control plane's.
fn namespaces(args: &CommonArgs) -> LabelSelector {
    let requirement =
        |key: &str, operator: &str, values: Option<Vec<String>>| LabelSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values,
        };
    LabelSelector {
        match_labels: Some([(labels::MONITORED_BY.to_owned(), args.mesh_name.clone())].into()),
        match_expressions: Some(vec![
            requirement(labels::IGNORE, "DoesNotExist", None),
            requirement(
                "kubernetes.io/metadata.name",
                "NotIn",
                Some(vec![args.osm_namespace.clone()]),
            ),
            requirement("control-plane", "DoesNotExist", None),
        ]),
    }
}
