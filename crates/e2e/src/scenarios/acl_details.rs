//! SMI access control: forgery, other ways to the same server, and objects that are wrong or incomplete.

use anyhow::{Result, ensure};
use serde_json::json;

use super::acl::pair;
use super::{Scenario, scenario};
use crate::manifest::{PORT, allow, routes, rule, target, with};
use crate::scene::{Ends, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "ACL-12",
        P1,
        matches_left_out,
        "a rule without matches means all of the group"
    ),
    scenario!(
        "ACL-13",
        P1,
        unknown_match,
        "unknown match names are ignored, known ones count"
    ),
    scenario!(
        "ACL-14",
        P1,
        group_comes_later,
        "a missing HTTPRouteGroup opens when it comes and closes when it goes"
    ),
    scenario!(
        "ACL-15",
        P1,
        other_kinds,
        "sources of other kinds are ignored, the rest works"
    ),
    scenario!(
        "ACL-16",
        P1,
        empty_rules,
        "a TrafficTarget without rules, or with one of an unknown kind, gives nothing"
    ),
    scenario!(
        "ACL-17",
        P0,
        forged_header,
        "an identity header of the client counts for nothing"
    ),
    scenario!(
        "ACL-18",
        P0,
        forged_certificate,
        "clear text, strange certificates and strange ports are refused"
    ),
    scenario!(
        "ACL-19",
        P0,
        by_address,
        "by ClusterIP or pod IP the decision is the same"
    ),
    scenario!(
        "ACL-21",
        P1,
        itself,
        "pods of one ServiceAccount need a TrafficTarget too"
    ),
    scenario!(
        "ACL-22",
        P1,
        live_changes,
        "changes of a TrafficTarget are live and disturb nobody else"
    ),
];

async fn matches_left_out(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    let all = json!({ "kind": "HTTPRouteGroup", "name": "server" });
    scene
        .apply(&[
            routes(&servers, "server", &[("get", "/get"), ("ip", "/ip")]),
            target(
                &servers,
                "server",
                "server",
                &[(&client.namespace, "client")],
                all,
            ),
        ])
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    scene
        .head(&client, &url.replace("/get", "/ip"), Ends::Status(200))
        .await?;
    // The identity is known, this route is not granted (scenarios §34 row 1).
    scene
        .head(&client, &url.replace("/get", "/headers"), Ends::Status(403))
        .await
}

async fn unknown_match(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    scene
        .apply(&[
            routes(&servers, "server", &[("get", "/get")]),
            target(
                &servers,
                "server",
                "server",
                &[(&client.namespace, "client")],
                rule("server", &["nothing", "get"]),
            ),
        ])
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await
}

async fn group_comes_later(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    let [group, target] = allow(&servers, "server", &[(&client.namespace, "client")]);
    scene.apply(&[target]).await?;
    scene.head(&client, &url, Ends::Closed).await?;
    scene.apply(std::slice::from_ref(&group)).await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    scene.delete("httproutegroup", &servers, "server").await?;
    scene.head(&client, &url, Ends::Closed).await
}

async fn other_kinds(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    let [group, target] = allow(&servers, "server", &[(&client.namespace, "client")]);
    let sources = json!([{ "kind": "User", "name": "somebody" }, target["spec"]["sources"][0]]);
    scene
        .apply(&[group, with(target, &["spec", "sources"], sources)])
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await
}

async fn empty_rules(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    let [group, target] = allow(&servers, "server", &[(&client.namespace, "client")]);
    for rules in [
        json!([]),
        json!([target["spec"]["rules"][0], { "kind": "UDPRoute", "name": "dns" }]),
    ] {
        scene
            .apply(&[
                group.clone(),
                with(target.clone(), &["spec", "rules"], rules),
            ])
            .await?;
        scene.head(&client, &url, Ends::Exit(7)).await?;
    }
    scene.apply(&[target]).await?;
    scene.head(&client, &url, Ends::Status(200)).await
}

async fn forged_header(scene: &Scene<'_>) -> Result<()> {
    let (first, servers, _) = pair(scene).await?;
    let second = scene.client(&first.namespace, "second").await?;
    let url = format!("http://server.{servers}:{PORT}/anything");
    scene
        .apply(&[
            routes(&servers, "server", &[("a", "/anything"), ("b", "/foo")]),
            target(
                &servers,
                "first",
                "server",
                &[(&first.namespace, "client")],
                rule("server", &["a"]),
            ),
            target(
                &servers,
                "second",
                "server",
                &[(&first.namespace, "second")],
                rule("server", &["b"]),
            ),
        ])
        .await?;
    scene.head(&first, &url, Ends::Status(200)).await?;
    scene.head(&second, &url, Ends::Status(403)).await?;
    let namespace = &first.namespace;
    for header in [
        format!("serviceidentity: client.{namespace}.cluster.local"),
        format!(
            "x-forwarded-client-cert: By=spiffe://cluster.local/server/{servers};URI=spiffe://cluster.local/client/{namespace}"
        ),
    ] {
        scene
            .head(&second, &format!("-H '{header}' {url}"), Ends::Status(403))
            .await?;
    }
    Ok(())
}

async fn forged_certificate(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    scene
        .apply(&allow(&servers, "server", &[(&client.namespace, "client")]))
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    let plain = scene.plain_namespace("plain").await?;
    let stranger = scene.client(&plain, "stranger").await?;
    let server = scene.pod(&servers, "server", "httpbin").await?;
    let address = scene
        .field("pod", &servers, &server.name, "{.status.podIP}")
        .await?;
    for port in [PORT, 15003] {
        scene
            .head(
                &stranger,
                &format!("http://{address}:{port}/get"),
                Ends::Closed,
            )
            .await?;
        scene
            .head(
                &stranger,
                &format!("-k https://{address}:{port}/get"),
                Ends::Closed,
            )
            .await?;
    }
    // All that a sidecar would say, with a certificate of an authority that the mesh does not know.
    let line = format!(
        "cd /tmp && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -out c.pem -days 1 -subj /CN=client \
         -addext 'subjectAltName=URI:spiffe://cluster.local/client/{}' 2>/dev/null && \
         (printf 'GET /get HTTP/1.1\\r\\nHost: server.{servers}\\r\\n\\r\\n'; sleep 2) | timeout 5 openssl s_client -quiet -alpn osm \
         -servername server.{servers}.svc.cluster.local -cert c.pem -key k.pem -connect {address}:{PORT} 2>&1",
        client.namespace
    );
    let said = scene.sh(&stranger, &line).await?;
    ensure!(
        !said.contains("200 OK") && !said.contains("HTTP/"),
        "a made-up certificate is answered: {said}"
    );
    ensure!(
        said.contains("alert") || said.contains("error") || said.contains("errno"),
        "no refusal in {said:?}"
    );
    Ok(())
}

async fn by_address(scene: &Scene<'_>) -> Result<()> {
    let (client, servers, url) = pair(scene).await?;
    let denied = scene.client(&client.namespace, "denied").await?;
    let server = scene.pod(&servers, "server", "httpbin").await?;
    let pod = scene
        .field("pod", &servers, &server.name, "{.status.podIP}")
        .await?;
    let cluster = scene
        .field("service", &servers, "server", "{.spec.clusterIP}")
        .await?;
    scene
        .apply(&allow(&servers, "server", &[(&client.namespace, "client")]))
        .await?;
    scene.head(&client, &url, Ends::Status(200)).await?;
    scene
        .head(
            &client,
            &format!("-H 'Host: server.{servers}' http://{cluster}:{PORT}/get"),
            Ends::Status(200),
        )
        .await?;
    scene
        .head(
            &client,
            &format!("http://{cluster}:{PORT}/get"),
            Ends::Status(404),
        )
        .await?;
    for address in [&pod, &cluster] {
        scene
            .head(
                &denied,
                &format!("-H 'Host: server.{servers}' http://{address}:{PORT}/get"),
                Ends::Exit(7),
            )
            .await?;
    }
    Ok(())
}

async fn itself(scene: &Scene<'_>) -> Result<()> {
    let servers = scene.namespace("server").await?;
    super::acl::serve(scene, &servers, "server").await?;
    let server = scene.pod(&servers, "server", "httpbin").await?;
    let url = format!("http://server.{servers}:{PORT}/get");
    scene.head(&server, &url, Ends::Exit(7)).await?;
    scene
        .apply(&allow(&servers, "server", &[(&servers, "server")]))
        .await?;
    scene.head(&server, &url, Ends::Status(200)).await
}

async fn live_changes(scene: &Scene<'_>) -> Result<()> {
    let (steady, servers, url) = pair(scene).await?;
    let other = scene.client(&steady.namespace, "other").await?;
    let sources = [
        (steady.namespace.as_str(), "client"),
        (steady.namespace.as_str(), "other"),
    ];
    scene
        .apply(&allow(&servers, "server", &sources[..1]))
        .await?;
    scene.head(&steady, &url, Ends::Status(200)).await?;
    let load = scene.requests(&steady, &url, 200);
    let changes = async {
        for sources in [&sources[..], &sources[..1], &sources[..]] {
            let ends = if sources.len() == 2 {
                Ends::Status(200)
            } else {
                Ends::Exit(7)
            };
            scene.apply(&allow(&servers, "server", sources)).await?;
            scene.head(&other, &url, ends).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let (load, changes) = futures::join!(load, changes);
    changes?;
    let failed: Vec<_> = load?.into_iter().filter(|one| *one != (200, 0)).collect();
    ensure!(
        failed.is_empty(),
        "requests of the other client failed: {failed:?}"
    );
    Ok(())
}
