//! The server as its clients see it: kube-rs over TLS, in process; kubectl where it is installed.

mod common;

use common::{Cluster, account, message, pod, soon, typed};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, AttachParams, DeleteParams, DynamicObject, GroupVersionKind, ListParams,
    LogParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn map(name: &str) -> ConfigMap {
    typed(json!({"metadata": {"name": name, "labels": {"n": name}}, "data": {"k": "1"}}))
}

#[tokio::test]
async fn objects_live_through_create_watch_patch_conflict_delete() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    let made = maps
        .create(&PostParams::default(), &map("a"))
        .await
        .unwrap();
    let mut events = maps
        .watch(&WatchParams::default(), &made.resource_version().unwrap())
        .await
        .unwrap()
        .boxed();
    maps.patch(
        "a",
        &PatchParams::default(),
        &Patch::Merge(json!({"data": {"k": "2"}})),
    )
    .await
    .unwrap();
    let (code, text) = message(maps.replace("a", &PostParams::default(), &made).await);
    assert_eq!(code, 409);
    assert_eq!(
        text,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let modified = soon(events.try_next()).await.unwrap();
    assert!(
        matches!(modified, Some(WatchEvent::Modified(m)) if m.data.as_ref().is_some_and(|d| d["k"] == "2"))
    );
    assert!(matches!(
        soon(events.try_next()).await.unwrap(),
        Some(WatchEvent::Deleted(_))
    ));
    assert_eq!(
        message(maps.get("a").await),
        (404, "configmaps \"a\" not found".to_owned())
    );
}

#[tokio::test]
async fn a_restart_keeps_objects_and_an_old_watch_gets_410() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    let first = maps
        .create(&PostParams::default(), &map("a"))
        .await
        .unwrap();
    maps.create(&PostParams::default(), &map("b"))
        .await
        .unwrap();
    let cluster = cluster.restart().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    assert_eq!(
        maps.list(&ListParams::default()).await.unwrap().items.len(),
        2
    );
    let mut events = maps
        .watch(&WatchParams::default(), &first.resource_version().unwrap())
        .await
        .unwrap()
        .boxed();
    assert!(
        matches!(soon(events.try_next()).await.unwrap(), Some(WatchEvent::Error(e)) if e.code == 410)
    );
}

#[tokio::test]
async fn lists_come_in_pages_and_by_labels() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    for name in ["a", "b", "c"] {
        maps.create(&PostParams::default(), &map(name))
            .await
            .unwrap();
    }
    let page = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(
        (page.items.len(), page.metadata.remaining_item_count),
        (2, Some(1))
    );
    let token = page.metadata.continue_.unwrap();
    let rest = maps
        .list(&ListParams::default().limit(2).continue_token(&token))
        .await
        .unwrap();
    assert_eq!(rest.items[0].name_any(), "c");
    assert_eq!(
        maps.list(&ListParams::default().labels("n in (a,c)"))
            .await
            .unwrap()
            .items
            .len(),
        2
    );
}

#[tokio::test]
async fn namespaces_guard_their_contents_and_end_by_finalize() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let missing: Api<ConfigMap> = Api::namespaced(client.clone(), "nope");
    let refused = message(missing.create(&PostParams::default(), &map("a")).await);
    assert_eq!(refused, (404, "namespaces \"nope\" not found".to_owned()));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .create(
            &PostParams::default(),
            &typed(json!({"metadata": {"name": "x"}})),
        )
        .await
        .unwrap();
    namespaces
        .delete("x", &DeleteParams::default())
        .await
        .unwrap();
    let inside: Api<ConfigMap> = Api::namespaced(client.clone(), "x");
    let (code, text) = message(inside.create(&PostParams::default(), &map("a")).await);
    assert_eq!(code, 403);
    assert!(text.contains("because it is being terminated"), "{text}");
    let mut body = serde_json::to_value(namespaces.get("x").await.unwrap()).unwrap();
    assert_eq!(body["status"]["phase"], "Terminating");
    body["spec"] = json!({"finalizers": []});
    send(
        &client,
        http::Request::put("/api/v1/namespaces/x/finalize"),
        &body,
    )
    .await;
    assert_eq!(message(namespaces.get("x").await).0, 404);
}

async fn send(client: &Client, request: http::request::Builder, body: &Value) -> Value {
    let request = request
        .header("content-type", "application/json")
        .body(serde_json::to_vec(body).unwrap())
        .unwrap();
    client.request(request).await.unwrap()
}

#[tokio::test]
async fn custom_kinds_are_validated_defaulted_pruned_and_end_with_their_definition() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = typed(json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"}, "versions": [{
            "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"size": {"type": "integer"}, "mode": {"type": "string", "default": "slow"}}},
                "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
            }}},
        }]},
    }));
    crds.create(&PostParams::default(), &definition)
        .await
        .unwrap();
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("example.com", "v1", "Widget"),
        "widgets",
    );
    let widgets: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let widget = |spec: Value| DynamicObject::new("w", &resource).data(json!({"spec": spec}));
    let (code, text) = message(
        widgets
            .create(&PostParams::default(), &widget(json!({"size": "big"})))
            .await,
    );
    let expected = "Widget.example.com \"w\" is invalid: spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"";
    assert_eq!((code, text.as_str()), (422, expected));
    let made = widgets
        .create(
            &PostParams::default(),
            &widget(json!({"size": 1, "extra": true})),
        )
        .await
        .unwrap();
    assert_eq!(made.data["spec"], json!({"size": 1, "mode": "slow"}));
    let status = Patch::Merge(json!({"spec": {"size": 9}, "status": {"ready": true}}));
    let patched = widgets
        .patch_status("w", &PatchParams::default(), &status)
        .await
        .unwrap();
    assert_eq!(
        (
            &patched.data["spec"]["size"],
            &patched.data["status"]["ready"]
        ),
        (&json!(1), &json!(true))
    );
    crds.delete("widgets.example.com", &DeleteParams::default())
        .await
        .unwrap();
    soon(async { while crds.get_opt("widgets.example.com").await.unwrap().is_some() {} }).await;
    assert!(widgets.get("w").await.is_err());
}

#[tokio::test]
async fn services_get_addresses_and_keep_them() {
    let cluster = Cluster::start().await;
    let services: Api<Service> = Api::namespaced(cluster.client().await, "default");
    let service = typed(
        json!({"metadata": {"name": "s"}, "spec": {"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80, "name": "a"}]}}),
    );
    let made = services
        .create(&PostParams::default(), &service)
        .await
        .unwrap()
        .spec
        .unwrap();
    let ips = made.cluster_ips.clone().unwrap();
    assert!(
        ips[0].starts_with("10.96.") && ips[1].starts_with("fd96::"),
        "{ips:?}"
    );
    let patch = Patch::Strategic(json!({"spec": {"ports": [{"port": 81, "name": "b"}]}}));
    let patched = services
        .patch("s", &PatchParams::default(), &patch)
        .await
        .unwrap()
        .spec
        .unwrap();
    assert_eq!(patched.cluster_ips, made.cluster_ips);
    assert_eq!(patched.ports.unwrap().len(), 2);
}

#[tokio::test]
async fn pods_wait_for_their_node_and_tokens_die_with_them() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    account(&client).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let made = pods
        .create(&PostParams::default(), &pod("p"))
        .await
        .unwrap();
    let volumes = made.spec.as_ref().and_then(|s| s.volumes.as_ref()).unwrap();
    assert!(volumes[0].name.starts_with("kube-api-access-"));
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made.uid().unwrap()});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = send(
        &client,
        http::Request::post(path),
        &json!({"spec": {"audiences": ["mesh"], "boundObjectRef": bound}}),
    )
    .await;
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let review: TokenReview =
        typed(json!({"spec": {"token": token["status"]["token"], "audiences": ["mesh"]}}));
    let status = reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap()
        .status
        .unwrap();
    let user = status.user.unwrap();
    assert_eq!(
        user.username.as_deref(),
        Some("system:serviceaccount:default:default")
    );
    assert_eq!(
        user.extra.unwrap()["authentication.kubernetes.io/pod-name"],
        ["p"]
    );
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    let going = pods.get("p").await.unwrap().metadata;
    assert_eq!(
        (
            going.deletion_timestamp.is_some(),
            going.deletion_grace_period_seconds
        ),
        (true, Some(30))
    );
    pods.delete("p", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    assert_eq!(message(pods.get("p").await).0, 404);
    let status = reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap()
        .status
        .unwrap();
    assert_ne!(status.authenticated, Some(true));
}

#[tokio::test]
async fn exec_logs_and_port_forward_reach_the_node() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    account(&client).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    pods.create(&PostParams::default(), &pod("p"))
        .await
        .unwrap();
    let mut attached = pods
        .exec(
            "p",
            ["cat"],
            &AttachParams::default().stdin(true).stderr(false),
        )
        .await
        .unwrap();
    let mut stdin = attached.stdin().unwrap();
    stdin.write_all(b"through v5").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut text = String::new();
    soon(attached.stdout().unwrap().read_to_string(&mut text))
        .await
        .unwrap();
    assert_eq!(text, "through v5");
    let mut failed = pods
        .exec("p", ["exit", "7"], &AttachParams::default().stderr(false))
        .await
        .unwrap();
    let status = soon(failed.take_status().unwrap()).await.unwrap();
    assert_eq!(
        status.details.unwrap().causes.unwrap()[0]
            .message
            .as_deref(),
        Some("7")
    );
    let logs = pods
        .logs(
            "p",
            &LogParams {
                tail_lines: Some(3),
                ..LogParams::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(logs, "c tail Some(3)\n");
    let mut forwarded = soon(pods.portforward("p", &[8080])).await.unwrap();
    let mut stream = forwarded.take_stream(8080).unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut text = vec![0; 14];
    soon(stream.read_exact(&mut text)).await.unwrap();
    assert_eq!(text, b"8080 got hello");
}

#[tokio::test]
async fn a_request_without_credentials_is_unauthorized_and_health_is_open() {
    let cluster = Cluster::start().await;
    let mut kubeconfig = kube::config::Kubeconfig::from_yaml(&cluster.kubeconfig()).unwrap();
    for user in &mut kubeconfig.auth_infos {
        user.auth_info = Some(kube::config::AuthInfo::default());
    }
    let client = common::connect(kubeconfig).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    assert_eq!(
        message(maps.get("a").await),
        (401, "Unauthorized".to_owned())
    );
    let health = client
        .request_text(http::Request::get("/readyz").body(Vec::new()).unwrap())
        .await
        .unwrap();
    assert_eq!(health, "ok");
}

#[tokio::test]
async fn kubectl_works_where_it_is_installed() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    account(&client).await;
    if cluster.kubectl(&["version"]).await.is_none() {
        eprintln!("kubectl is not installed: skipped");
        return;
    }
    let item = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "listed", "namespace": "x"}});
    let list = cluster.file(
        "list.json",
        &json!({"apiVersion": "v1", "kind": "List", "items": [item]}),
    );
    let mut wrong = item.clone();
    wrong["spec"] = json!({});
    let wrong = cluster.file("wrong.json", &wrong);
    let cases: [(&[&str], &str); 11] = [
        (&["create", "namespace", "x"], "namespace/x created"),
        (
            &["create", "configmap", "c", "-n", "x", "--from-literal=a=b"],
            "configmap/c created",
        ),
        (
            &["create", "deployment", "web", "--image=i:1", "-n", "x"],
            "deployment.apps/web created",
        ),
        (
            &["get", "deploy", "-n", "x"],
            "web    0/1     0            0",
        ),
        (
            &["scale", "deploy", "web", "-n", "x", "--replicas=3"],
            "deployment.apps/web scaled",
        ),
        (
            &["label", "deploy", "web", "-n", "x", "a=b"],
            "deployment.apps/web labeled",
        ),
        (&["apply", "-f", &list], "configmap/listed created"),
        (
            &["apply", "-f", &wrong],
            "strict decoding error: unknown field \"spec\"",
        ),
        (
            &["get", "widgets"],
            "the server doesn't have a resource type \"widgets\"",
        ),
        (
            &["delete", "configmap", "c", "-n", "x"],
            "configmap \"c\" deleted",
        ),
        (
            &["explain", "deployment.spec.replicas"],
            "Number of desired pods",
        ),
    ];
    for (arguments, expected) in cases {
        let (_, text) = cluster.kubectl(arguments).await.unwrap();
        assert!(text.contains(expected), "kubectl {arguments:?}: {text}");
    }
    let pods: Api<Pod> = Api::namespaced(client, "default");
    pods.create(&PostParams::default(), &pod("p"))
        .await
        .unwrap();
    let (ok, text) = cluster
        .kubectl(&["exec", "p", "--", "exit", "7"])
        .await
        .unwrap();
    assert!(
        !ok && text.contains("command terminated with exit code 7"),
        "{text}"
    );
}
