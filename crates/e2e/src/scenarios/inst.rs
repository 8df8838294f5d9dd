//! The commands of `osm` that look into a mesh: what operators' scripts call.

use anyhow::{Result, ensure};
use e2e::Output;
use serde_json::json;

use super::{Scenario, scenario};
use crate::manifest::allow;
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area and of OBS.
pub const ALL: &[Scenario] = &[
    scenario!(
        "INST-11",
        P1,
        proxy,
        "osm proxy get and set reach the sidecar's administration; foreign pods are named"
    ),
    scenario!(
        "INST-12",
        P1,
        check_pods,
        "osm policy check-pods names the policy, or its absence",
        alone
    ),
    scenario!(
        "OBS-02",
        P1,
        metrics,
        "osm metrics enable annotates the meshed pods that are there and those that come"
    ),
];

/// What the command prints must hold this, and its status be 0; or it must be refused with this.
fn says(output: Output, good: bool, text: &str) -> Result<String> {
    let said = output.both();
    ensure!(
        output.succeeded() == good && said.contains(text),
        "{}, not {text:?}",
        output.complaint()
    );
    Ok(said)
}

async fn server(scene: &Scene<'_>) -> Result<(Pod, Pod)> {
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    super::acl::serve(scene, &servers, "server").await?;
    let client = scene.client(&clients, "client").await?;
    let server = scene.pod(&servers, "server", "httpbin").await?;
    Ok((client, server))
}

async fn proxy(scene: &Scene<'_>) -> Result<()> {
    let (client, server) = server(scene).await?;
    scene
        .apply(&allow(
            &server.namespace,
            "server",
            &[(&client.namespace, "client")],
        ))
        .await?;
    let url = format!("http://server.{}:14001/get", server.namespace);
    scene.curl(&client, &url, Ends::Status(200)).await?;
    let ask = async |verb: &str, query: &str, pod: &Pod| {
        scene
            .stage
            .osm(&["proxy", verb, query, &pod.name, "-n", &pod.namespace])
            .await
    };
    let identity = format!("spiffe://cluster.local/client/{}", client.namespace);
    for (query, text) in [
        ("config_dump", "\"configs\""),
        ("clusters", server.namespace.as_str()),
        ("listeners", "15001"),
        ("stats", "upstream_rq"),
        ("certs", identity.as_str()),
        ("/ready", "LIVE"),
    ] {
        let said = says(ask("get", query, &client).await?, true, text)?;
        ensure!(!said.contains("PRIVATE KEY"), "{query} shows a key");
    }
    says(ask("set", "reset_counters", &client).await?, true, "")?;
    let no_page = ask("get", "nowhere", &client).await?;
    says(no_page, false, "/nowhere is answered with 404")?;
    let file = scene.stage.directory().join("inst-11.txt");
    let path = file.display().to_string();
    let words = [
        "proxy",
        "get",
        "ready",
        &client.name,
        "-n",
        &client.namespace,
        "-f",
        &path,
    ];
    says(scene.stage.osm(&words).await?, true, "")?;
    ensure!(std::fs::read_to_string(&file)?.contains("LIVE"), "{path}");

    let plain = scene.plain_namespace("plain").await?;
    let foreign = scene.client(&plain, "foreign").await?;
    let foreigner = format!("pod {plain}/{} is not a part of a mesh", foreign.name);
    says(ask("get", "stats", &foreign).await?, false, &foreigner)?;
    let nobody = Pod {
        name: "nobody".into(),
        ..foreign
    };
    let text = format!("Could not find pod nobody in namespace {plain}");
    says(ask("get", "stats", &nobody).await?, false, &text)?;
    Ok(())
}

async fn check_pods(scene: &Scene<'_>) -> Result<()> {
    let (client, server) = server(scene).await?;
    let name = |pod: &Pod| format!("{}/{}", pod.namespace, pod.name);
    let (from, to) = (name(&client), name(&server));
    let check = async |from: &str, to: &str| {
        let words = ["policy", "check-pods", from, to];
        scene.stage.osm(&words).await
    };
    let missing = format!(
        "[+] Pod '{from}' is not allowed to communicate to pod '{to}', missing SMI TrafficTarget policy"
    );
    says(check(&from, &to).await?, true, &missing)?;
    scene
        .apply(&allow(
            &server.namespace,
            "server",
            &[(&client.namespace, "client")],
        ))
        .await?;
    let granted = format!(
        "[+] Pod '{from}' is allowed to communicate to pod '{to}' via the SMI TrafficTarget policy \"server\" in namespace {}",
        server.namespace
    );
    says(check(&from, &to).await?, true, &granted)?;
    let back = format!("[+] Pod '{to}' is not allowed to communicate to pod '{from}'");
    says(check(&to, &from).await?, true, &back)?;
    scene
        .mesh_config(json!({ "traffic": { "enablePermissiveTrafficPolicyMode": true } }))
        .await?;
    let permissive = format!("[+] Pod '{to}' is allowed to communicate to pod '{from}'");
    let said = says(check(&to, &from).await?, true, &permissive)?;
    ensure!(said.contains("Permissive mode enabled"), "{said}");
    let plain = scene.plain_namespace("plain").await?;
    let foreign = scene.client(&plain, "foreign").await?;
    let text = format!(
        "Pod {} in namespace {plain} is not a part of a mesh",
        foreign.name
    );
    says(check(&from, &name(&foreign)).await?, false, &text)?;
    let form = "Pod name should be of the form <namespace/pod>";
    says(check("a/b/c", &to).await?, false, form)?;
    Ok(())
}

async fn metrics(scene: &Scene<'_>) -> Result<()> {
    let (namespace, plain) = (
        scene.namespace("shop").await?,
        scene.plain_namespace("plain").await?,
    );
    scene.client(&namespace, "early").await?;
    let switch = async |verb: &str, namespace: &str| {
        let words = ["metrics", verb, "--namespace", namespace];
        scene.stage.osm(&words).await
    };
    let scraped = async |name: &str| {
        let pod = scene.pod(&namespace, name, "curl").await?;
        let path = r"{.metadata.annotations.prometheus\.io/scrape} {.metadata.annotations.prometheus\.io/port} {.metadata.annotations.prometheus\.io/path}";
        scene.field("pod", &namespace, &pod.name, path).await
    };
    let before = scraped("early").await?;
    ensure!(before.trim().is_empty(), "before: {before:?}");
    let done = format!("Metrics successfully enabled in namespace [{namespace}]");
    says(switch("enable", &namespace).await?, true, &done)?;
    scene.client(&namespace, "late").await?;
    for name in ["early", "late"] {
        let said = scraped(name).await?;
        ensure!(said == "true 15010 /stats/prometheus", "{name}: {said:?}");
    }
    let foreign = format!(
        "Namespace [{plain}] does not belong to a mesh, missing annotation \"openservicemesh.io/monitored-by\""
    );
    says(switch("enable", &plain).await?, false, &foreign)?;
    let done = format!("Metrics successfully disabled in namespace [{namespace}]");
    says(switch("disable", &namespace).await?, true, &done)?;
    let after = scraped("early").await?;
    ensure!(after.trim().is_empty(), "after: {after:?}");
    Ok(())
}
