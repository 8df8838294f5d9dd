//! Permissive mode.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Scenario, scenario};
use crate::manifest::{
    PORT, account, allow, deployment, httpbin, named_httpbin, object, pod, service, wire, with,
};
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "PERM-01",
        P0,
        no_policy_needed,
        "a meshed client reaches a meshed server without policy, over TLS",
        alone
    ),
    scenario!(
        "PERM-02",
        P0,
        unmeshed_client,
        "an unmeshed client is refused even in permissive mode",
        alone
    ),
    scenario!(
        "PERM-03",
        P0,
        turned_off,
        "turning permissive mode off cuts at once",
        alone
    ),
    scenario!(
        "PERM-05",
        P0,
        targets_ignored,
        "TrafficTargets do not count, TrafficSplits do",
        alone
    ),
    scenario!(
        "PERM-06",
        P1,
        every_protocol,
        "every namespace of the mesh and every protocol",
        alone
    ),
    scenario!(
        "PERM-07",
        P1,
        not_outside,
        "what is outside the mesh stays closed",
        alone
    ),
];

/// A word in the path of requests that is looked for on the wire.
const MARKER: &str = "open-sesame";

async fn permissive(scene: &Scene<'_>, on: bool) -> Result<()> {
    scene
        .mesh_config(json!({ "traffic": { "enablePermissiveTrafficPolicyMode": on } }))
        .await
}

/// A meshed client and a meshed server, each in a namespace of its own; the server's URL without path.
async fn pair(scene: &Scene<'_>) -> Result<(Pod, Pod, String)> {
    let (clients, servers) = (
        scene.namespace("client").await?,
        scene.namespace("server").await?,
    );
    let spec = with(
        pod("server", httpbin(PORT)),
        &["containers"],
        json!([httpbin(PORT), wire()]),
    );
    scene
        .apply(&[
            account(&servers, "server"),
            service(&servers, "server", "server", "http", PORT),
            deployment(&servers, "server", spec),
        ])
        .await?;
    let client = scene.client(&clients, "client").await?;
    let server = scene.pod(&servers, "server", "wire").await?;
    Ok((client, server, format!("http://server.{servers}:{PORT}")))
}

async fn no_policy_needed(scene: &Scene<'_>) -> Result<()> {
    permissive(scene, true).await?;
    let (client, server, url) = pair(scene).await?;
    scene
        .head(&client, &format!("{url}/get"), Ends::Status(200))
        .await?;
    for (interface, clear) in [("eth0", false), ("lo", true)] {
        let seen = watch(
            scene,
            &server,
            &client,
            interface,
            &format!("{url}/anything/{MARKER}"),
        )
        .await?;
        let hidden = seen.contains(&format!("packets with \"{MARKER}\" in clear text: 0"));
        ensure!(
            hidden != clear && !seen.contains("packets with payload: 0"),
            "on {interface}: {seen}"
        );
    }
    Ok(())
}

/// What `osm-apps sniff` reports about the server's pod while the client sends requests.
async fn watch(
    scene: &Scene<'_>,
    server: &Pod,
    client: &Pod,
    interface: &str,
    url: &str,
) -> Result<String> {
    let port = PORT.to_string();
    let sniff = [
        "osm-apps",
        "sniff",
        "--interface",
        interface,
        "--port",
        &port,
        "--marker",
        MARKER,
    ];
    let watching = scene.exec(server, &sniff);
    let requests = async {
        loop {
            // Until the watch ends; what becomes of single requests is not the question here.
            let _ = scene.requests(client, url, 3).await;
        }
    };
    tokio::select! {
        report = watching => report?.text(),
        never = requests => never,
    }
}

async fn unmeshed_client(scene: &Scene<'_>) -> Result<()> {
    permissive(scene, true).await?;
    let (client, server, url) = pair(scene).await?;
    let plain = scene.plain_namespace("plain").await?;
    let stranger = scene.client(&plain, "stranger").await?;
    scene
        .head(&client, &format!("{url}/get"), Ends::Status(200))
        .await?;
    scene
        .head(&stranger, &format!("{url}/get"), Ends::Closed)
        .await?;
    let address = scene
        .field("pod", &server.namespace, &server.name, "{.status.podIP}")
        .await?;
    scene
        .head(
            &stranger,
            &format!("http://{address}:{PORT}/get"),
            Ends::Closed,
        )
        .await
}

async fn turned_off(scene: &Scene<'_>) -> Result<()> {
    permissive(scene, true).await?;
    let (client, _, url) = pair(scene).await?;
    scene
        .head(&client, &format!("{url}/get"), Ends::Status(200))
        .await?;
    permissive(scene, false).await?;
    scene
        .head(&client, &format!("{url}/get"), Ends::Exit(7))
        .await
}

async fn targets_ignored(scene: &Scene<'_>) -> Result<()> {
    permissive(scene, true).await?;
    let (clients, servers) = (
        scene.namespace("client").await?,
        scene.namespace("server").await?,
    );
    let mut objects = Vec::from(allow(&servers, "one", &[(&clients, "somebody-else")]));
    for name in ["one", "two"] {
        let spec = deployment(&servers, name, pod(name, named_httpbin(PORT)));
        objects.extend([
            account(&servers, name),
            service(&servers, name, name, "http", PORT),
            with(
                spec,
                &["spec", "template", "metadata", "labels", "split"],
                json!("apex"),
            ),
        ]);
    }
    objects.push(with(
        service(&servers, "apex", "x", "http", PORT),
        &["spec", "selector"],
        json!({ "split": "apex" }),
    ));
    let backends = json!([{ "service": "one", "weight": 50 }, { "service": "two", "weight": 50 }]);
    let split =
        json!({ "service": format!("apex.{servers}.svc.cluster.local"), "backends": backends });
    objects.push(object(
        "split.smi-spec.io/v1alpha2",
        "TrafficSplit",
        &servers,
        "apex",
        split,
    ));
    scene.apply(&objects).await?;
    let client = scene.client(&clients, "client").await?;
    for name in ["one", "two"] {
        scene.pod(&servers, name, "httpbin").await?;
    }
    scene
        .head(
            &client,
            &format!("http://one.{servers}:{PORT}/get"),
            Ends::Status(200),
        )
        .await?;
    let apex = format!("http://apex.{servers}:{PORT}/get");
    scene.everyone_answers(&client, &apex, 2).await?;
    // All to one: the split decides, not the Service, whose endpoints are still both.
    let patch = json!({ "spec": { "backends": [{ "service": "one", "weight": 100 }, { "service": "two", "weight": 0 }] } });
    let words = [
        "patch",
        "trafficsplit",
        "apex",
        "-n",
        &servers,
        "--type=merge",
        "-p",
        &patch.to_string(),
    ];
    scene.stage.kubectl(&words).await?.text()?;
    e2e::eventually(Duration::from_secs(60), async || {
        let line = format!("for i in 1 2 3 4 5 6 7 8 9 10; do curl -sI --max-time 10 {apex}; done");
        let text = scene.sh(&client, &line).await?;
        let names = text.lines().filter(|line| line.starts_with("podname:"));
        let (all, ones) = names.fold((0, 0), |(all, ones), line| {
            (all + 1, ones + u32::from(line.contains("one-")))
        });
        ensure!(
            (all, ones) == (10, 10),
            "{ones} of {all} answers by the only backend with weight"
        );
        Ok(())
    })
    .await
}

async fn every_protocol(scene: &Scene<'_>) -> Result<()> {
    permissive(scene, true).await?;
    let (clients, servers) = (
        scene.namespace("client").await?,
        scene.namespace("server").await?,
    );
    let container = |name: &str, role: &str, port: u16| {
        json!({
            "name": name, "image": "osm-apps", "imagePullPolicy": "IfNotPresent",
            "command": ["osm-apps", role, "--port", port.to_string()]
        })
    };
    let containers = json!([
        container("echo", "tcp-echo", 9000),
        container("banner", "banner", 3306),
        named_httpbin(PORT)
    ]);
    scene
        .apply(&[
            account(&servers, "server"),
            deployment(
                &servers,
                "server",
                with(pod("server", json!({})), &["containers"], containers),
            ),
            service(&servers, "web", "server", "http", PORT),
            service(&servers, "echo", "server", "tcp-echo", 9000),
            service(
                &servers,
                "banner",
                "server",
                "tcp-server-first-banner",
                3306,
            ),
        ])
        .await?;
    let client = scene.client(&clients, "client").await?;
    scene.pod(&servers, "server", "httpbin").await?;
    scene
        .head(
            &client,
            &format!("http://web.{servers}:{PORT}/get"),
            Ends::Status(200),
        )
        .await?;
    for (line, expected) in [
        (
            format!("printf 'hello\\n' | nc -N -w 5 echo.{servers} 9000"),
            "echo response: hello",
        ),
        (
            format!("sleep 2 | nc -w 3 banner.{servers} 3306"),
            "220 banner ready",
        ),
    ] {
        e2e::eventually(Duration::from_secs(60), async || {
            let said = scene.sh(&client, &line).await?;
            ensure!(said.contains(expected), "{line} says {said:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn not_outside(scene: &Scene<'_>) -> Result<()> {
    permissive(scene, true).await?;
    let (client, _, url) = pair(scene).await?;
    let plain = scene.plain_namespace("plain").await?;
    scene
        .apply(&[
            account(&plain, "httpbin"),
            deployment(&plain, "httpbin", pod("httpbin", named_httpbin(PORT))),
            service(&plain, "httpbin", "httpbin", "http", PORT),
        ])
        .await?;
    scene.pod(&plain, "httpbin", "httpbin").await?;
    scene
        .head(&client, &format!("{url}/get"), Ends::Status(200))
        .await?;
    scene
        .head(
            &client,
            &format!("http://httpbin.{plain}:{PORT}/get"),
            Ends::Closed,
        )
        .await?;
    scene
        .head(&client, "http://httpbin.org/get", Ends::Closed)
        .await
}
