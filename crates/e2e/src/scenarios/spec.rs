//! What an HTTPRouteGroup matches.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Scenario, acl::pair, scenario};
use crate::manifest::{PORT, object, rule, target};
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "SPEC-01",
        P0,
        path,
        "a path regex matches the whole path, without the query"
    ),
    scenario!("SPEC-02", P0, methods, "only the methods listed"),
    scenario!(
        "SPEC-03",
        P0,
        headers,
        "every header of a match must be there and match"
    ),
    scenario!(
        "SPEC-04",
        P0,
        defaults,
        "what a match leaves out is not looked at"
    ),
    scenario!(
        "SPEC-05",
        P1,
        several,
        "several matches and groups add up; each request needs one whole match"
    ),
    scenario!(
        "SPEC-07",
        P1,
        hosts,
        "every form of the Service's name, with and without port"
    ),
    scenario!(
        "SPEC-08",
        P1,
        invalid,
        "an invalid regex voids its own match only"
    ),
    scenario!(
        "SPEC-11",
        P1,
        bodies,
        "large and streamed bodies, HEAD, 100-continue, nothing cut at 15 s"
    ),
];

/// A pair of which the client may make the requests of a group `r` with these matches.
struct Granted {
    client: Pod,
    servers: String,
}

impl Granted {
    async fn new(scene: &Scene<'_>, matches: Value) -> Result<Self> {
        let (client, servers, _) = pair(scene).await?;
        let rule = json!({ "kind": "HTTPRouteGroup", "name": "r" });
        let sources = [(client.namespace.as_str(), "client")];
        scene
            .apply(&[
                group(&servers, "r", matches),
                target(&servers, "server", "server", &sources, rule),
            ])
            .await?;
        Ok(Self { client, servers })
    }

    /// What curl gets with these words behind the server's URL and this path.
    async fn get(&self, scene: &Scene<'_>, path: &str, words: &str, status: u16) -> Result<()> {
        let url = format!("'http://server.{}:{PORT}{path}' {words}", self.servers);
        scene.curl(&self.client, &url, Ends::Status(status)).await
    }
}

fn group(namespace: &str, name: &str, matches: Value) -> Value {
    object(
        "specs.smi-spec.io/v1alpha4",
        "HTTPRouteGroup",
        namespace,
        name,
        json!({ "matches": matches }),
    )
}

async fn path(scene: &Scene<'_>) -> Result<()> {
    let matches = json!([{ "name": "books", "pathRegex": "/anything/books", "methods": ["GET"] }]);
    let granted = Granted::new(scene, matches).await?;
    granted.get(scene, "/anything/books", "", 200).await?;
    granted.get(scene, "/anything/books?x=1", "", 200).await?;
    granted.get(scene, "/anything/books/2", "", 403).await?;
    granted.get(scene, "/anything/other", "", 403).await?;
    // What leads elsewhere is judged by where it leads.
    let dots = "--path-as-is";
    granted
        .get(scene, "/anything/books/../other", dots, 403)
        .await
}

async fn methods(scene: &Scene<'_>) -> Result<()> {
    let matches = json!([{ "name": "get", "pathRegex": "/anything", "methods": ["GET"] }]);
    let granted = Granted::new(scene, matches).await?;
    granted.get(scene, "/anything", "", 200).await?;
    granted.get(scene, "/anything", "-X POST", 403).await?;
    granted.get(scene, "/anything", "-I", 403).await?;
    for all in [json!(["*"]), json!([]), json!(["*", "GET"])] {
        let matches = json!([{ "name": "get", "pathRegex": "/anything", "methods": all }]);
        scene
            .apply(&[group(&granted.servers, "r", matches)])
            .await?;
        granted.get(scene, "/anything", "-X DELETE", 200).await?;
    }
    Ok(())
}

async fn headers(scene: &Scene<'_>) -> Result<()> {
    let matches = json!([{
        "name": "buyer", "pathRegex": ".*", "methods": ["*"],
        "headers": [{ "user-agent": ".*-http-client/*.*" }, { "client-app": "bookbuyer" }]
    }]);
    let granted = Granted::new(scene, matches).await?;
    let agent = "-A 'Go-http-client/1.1'";
    let both = format!("{agent} -H 'Client-App: bookbuyer'");
    granted.get(scene, "/get", &both, 200).await?;
    granted.get(scene, "/get", agent, 403).await?;
    let thief = format!("{agent} -H 'client-app: bookthief'");
    granted.get(scene, "/get", &thief, 403).await?;
    granted
        .get(scene, "/get", "-H 'client-app: bookbuyer'", 403)
        .await
}

async fn defaults(scene: &Scene<'_>) -> Result<()> {
    let granted = Granted::new(scene, json!([{ "name": "all" }])).await?;
    granted.get(scene, "/anything/x", "-X PUT", 200).await?;
    let methods = json!([{ "name": "gets", "methods": ["GET"] }]);
    scene
        .apply(&[group(&granted.servers, "r", methods)])
        .await?;
    granted.get(scene, "/anything/x", "-X PUT", 403).await?;
    granted.get(scene, "/anything/x", "", 200).await
}

async fn several(scene: &Scene<'_>) -> Result<()> {
    let matches = json!([
        { "name": "get", "pathRegex": "/anything/get", "methods": ["GET"] },
        { "name": "put", "pathRegex": "/anything/put", "methods": ["PUT"] }
    ]);
    let granted = Granted::new(scene, matches).await?;
    let third = json!([{ "name": "third", "pathRegex": "/anything/third" }]);
    let servers = granted.servers.as_str();
    let rules = json!([rule("r", &["get", "put"]), rule("s", &["third"])]);
    let sources = [(granted.client.namespace.as_str(), "client")];
    let mut both = target(servers, "server", "server", &sources, json!({}));
    both["spec"]["rules"] = rules;
    scene.apply(&[group(servers, "s", third), both]).await?;
    granted.get(scene, "/anything/third", "", 200).await?;
    granted.get(scene, "/anything/get", "", 200).await?;
    granted.get(scene, "/anything/put", "-X PUT", 200).await?;
    // Half of one match and half of another are no match.
    granted.get(scene, "/anything/get", "-X PUT", 403).await
}

async fn hosts(scene: &Scene<'_>) -> Result<()> {
    let granted = Granted::new(scene, json!([{ "name": "all" }])).await?;
    let servers = granted.servers.clone();
    let base = format!("http://server.{servers}:{PORT}/get");
    for suffix in ["", ".svc", ".svc.cluster", ".svc.cluster.local"] {
        for port in [String::new(), format!(":{PORT}")] {
            let request = format!("{base} -H 'Host: server.{servers}{suffix}{port}'");
            scene
                .curl(&granted.client, &request, Ends::Status(200))
                .await?;
        }
    }
    let bare = format!("{base} -H 'Host: server'");
    scene
        .curl(&granted.client, &bare, Ends::Status(404))
        .await?;
    let near = scene.client(&servers, "near").await?;
    let sources = [(servers.as_str(), "near")];
    let all = json!({ "kind": "HTTPRouteGroup", "name": "r" });
    scene
        .apply(&[target(&servers, "near", "server", &sources, all)])
        .await?;
    scene.curl(&near, &bare, Ends::Status(200)).await?;
    let unknown = format!("{base} -H 'Host: nobody.example'");
    scene
        .curl(&granted.client, &unknown, Ends::Status(404))
        .await
}

async fn invalid(scene: &Scene<'_>) -> Result<()> {
    let matches = json!([
        { "name": "broken", "pathRegex": "(", "methods": ["*"] },
        { "name": "get", "pathRegex": "/get", "methods": ["*"] }
    ]);
    let granted = Granted::new(scene, matches).await?;
    granted.get(scene, "/get", "", 200).await?;
    granted.get(scene, "/(", "--globoff", 403).await?;
    let log = ["logs", "-n", "osm-system", "deploy/osm-controller"];
    let said = scene.stage.kubectl(&log).await?.text()?;
    ensure!(
        said.contains("HTTPRouteGroup") && said.contains("broken"),
        "the controller does not name the broken match"
    );
    Ok(())
}

async fn bodies(scene: &Scene<'_>) -> Result<()> {
    let granted = Granted::new(scene, json!([{ "name": "all" }])).await?;
    let base = format!("http://server.{}:{PORT}", granted.servers);
    granted.get(scene, "/get", "", 200).await?;
    let say = async |line: String| scene.sh(&granted.client, &line).await;
    let sent = format!(
        "head -c 1048576 /dev/urandom > /tmp/body; \
         curl -s -H 'Expect: 100-continue' -H 'Content-Type: application/octet-stream' --data-binary @/tmp/body {base}/post -o /tmp/answer -w '%{{http_code}}'"
    );
    let status = say(sent).await?;
    ensure!(status == "200", "a body of 1 MiB: {status}");
    let length = say(format!(
        "curl -s '{base}/bytes/102400?seed=1' | sha256sum; curl -s --no-keepalive '{base}/bytes/102400?seed=1' | sha256sum"
    ))
    .await?;
    let sums: Vec<&str> = length.lines().collect();
    ensure!(
        sums.len() == 2 && sums[0] == sums[1],
        "bytes differ: {sums:?}"
    );
    let lines = say(format!("curl -s {base}/stream/20 | wc -l")).await?;
    ensure!(lines.trim() == "20", "a stream of 20 lines has {lines:?}");
    let head = say(format!("curl -sI {base}/bytes/1000 | wc -c; curl -s --head {base}/get -o /dev/null -w '%{{size_download}}'")).await?;
    ensure!(head.ends_with("\n0"), "HEAD has a body: {head:?}");
    let slow = say(format!(
        "curl -s -o /dev/null -w '%{{http_code}} %{{size_download}}' '{base}/drip?duration=17&numbytes=17&code=200&delay=0'"
    ))
    .await?;
    ensure!(slow == "200 17", "an answer of 17 s: {slow:?}");
    Ok(())
}
