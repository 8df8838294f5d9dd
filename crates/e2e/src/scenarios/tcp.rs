//! Opaque TCP, protocols of ports, and how Services lead to pods.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::{Scenario, scenario};
use crate::manifest::{
    PORT, account, allow, deployment, named_httpbin, object, pod, service, target, with,
};
use crate::scene::{Ends, Pod, Scene};

/// The scenarios of this area.
pub const ALL: &[Scenario] = &[
    scenario!(
        "TCP-01",
        P0,
        granted,
        "a TCPRoute opens a port, its deletion closes it"
    ),
    scenario!(
        "TCP-03",
        P0,
        half_close,
        "the echo of the guide, by nc: answered, refused without a policy, answered again"
    ),
    scenario!(
        "TCP-04",
        P0,
        ports,
        "a TCPRoute without ports opens all, with ports only those"
    ),
    scenario!(
        "TCP-05",
        P1,
        union,
        "ports and sources of several routes and targets add up"
    ),
    scenario!(
        "TCP-06",
        P1,
        missing,
        "a missing TCPRoute voids the target until it comes"
    ),
    scenario!(
        "TCP-07",
        P0,
        server_first,
        "a server that speaks first is heard at once"
    ),
    scenario!(
        "TCP-09",
        P0,
        protocols,
        "appProtocol, else the port's name, else http; an unknown one is unreachable"
    ),
    scenario!(
        "TCP-11",
        P0,
        several_services,
        "several Services on one pod"
    ),
    scenario!(
        "TCP-12",
        P0,
        named_port,
        "a named target port, with another number in each Deployment"
    ),
    scenario!(
        "TCP-15",
        P1,
        headless,
        "a headless Service by its plain name"
    ),
    scenario!(
        "TCP-19",
        P1,
        scaling,
        "new pods take part, removed ones are left alone"
    ),
    scenario!(
        "TCP-20",
        P1,
        no_endpoints,
        "without endpoints 503, healed when pods arrive"
    ),
];

const PATIENCE: Duration = Duration::from_secs(60);

/// A TCPRoute with these ports; none = all.
pub fn route(namespace: &str, name: &str, ports: &[u16]) -> Value {
    let matches = if ports.is_empty() {
        json!({})
    } else {
        json!({ "ports": ports })
    };
    object(
        "specs.smi-spec.io/v1alpha4",
        "TCPRoute",
        namespace,
        name,
        json!({ "matches": matches }),
    )
}

/// The rule of a TrafficTarget for a TCPRoute.
pub fn rule(name: &str) -> Value {
    json!({ "kind": "TCPRoute", "name": name })
}

/// A container with a role of osm-apps.
pub fn container(name: &str, role: &str, port: u16) -> Value {
    json!({
        "name": name, "image": "osm-apps", "imagePullPolicy": "IfNotPresent",
        "command": ["osm-apps", role, "--port", port.to_string()],
        "ports": [{ "containerPort": port }]
    })
}

/// A client, and a server that echoes on 9000 and 9001.
pub struct Echo {
    /// The client.
    pub client: Pod,
    /// Namespace of the server.
    pub servers: String,
}

impl Echo {
    /// Both, and no policy.
    pub async fn new(scene: &Scene<'_>) -> Result<Self> {
        let clients = scene.namespace("client").await?;
        let servers = scene.namespace("server").await?;
        let containers = json!([
            container("one", "tcp-echo", 9000),
            container("two", "tcp-echo", 9001)
        ]);
        let spec = with(pod("server", json!({})), &["containers"], containers);
        let ports = json!([
            { "name": "tcp-one", "port": 9000 }, { "name": "tcp-two", "port": 9001 }
        ]);
        let echo = json!({ "selector": { "app": "server" }, "ports": ports });
        scene
            .apply(&[
                account(&servers, "server"),
                object("v1", "Service", &servers, "server", echo),
                deployment(&servers, "server", spec),
            ])
            .await?;
        let client = scene.client(&clients, "client").await?;
        scene.pod(&servers, "server", "one").await?;
        Ok(Self { client, servers })
    }

    /// Opens ports to an account of the client's namespace.
    async fn allow(
        &self,
        scene: &Scene<'_>,
        name: &str,
        account: &str,
        ports: &[u16],
    ) -> Result<()> {
        let sources = [(self.client.namespace.as_str(), account)];
        scene
            .apply(&[
                route(&self.servers, name, ports),
                target(&self.servers, name, "server", &sources, rule(name)),
            ])
            .await
    }

    /// Five times in a row the port must echo, or not.
    /// Whether a port echoes.
    pub async fn echoes(
        &self,
        scene: &Scene<'_>,
        from: &Pod,
        port: u16,
        answered: bool,
    ) -> Result<()> {
        let line = format!(
            "for i in 1 2 3 4 5; do echo hello | nc -N -w 5 server.{} {port}; done",
            self.servers
        );
        let wanted = if answered { 5 } else { 0 };
        eventually(PATIENCE, async || {
            let said = scene.sh(from, &line).await?;
            let echoed = said.matches("echo response: hello").count();
            ensure!(echoed == wanted, "{line}: {said:?}, not {wanted} echoes");
            Ok(())
        })
        .await
    }
}

async fn granted(scene: &Scene<'_>) -> Result<()> {
    let echo = Echo::new(scene).await?;
    echo.echoes(scene, &echo.client, 9000, false).await?;
    echo.allow(scene, "tcp", "client", &[9000]).await?;
    echo.echoes(scene, &echo.client, 9000, true).await?;
    scene.delete("traffictarget", &echo.servers, "tcp").await?;
    echo.echoes(scene, &echo.client, 9000, false).await
}

async fn half_close(scene: &Scene<'_>) -> Result<()> {
    let echo = Echo::new(scene).await?;
    // `-N` shuts the client's side down; nc ends when the server does, which hears of it through both proxies.
    let line = format!(
        "echo hello | timeout 10 nc -N server.{} 9000; echo \"exit $?\"",
        echo.servers
    );
    let says = async |wanted: &str| {
        eventually(PATIENCE, async || {
            let said = scene.sh(&echo.client, &line).await?;
            ensure!(said.contains(wanted), "{line}: {said:?}, not {wanted:?}");
            Ok(())
        })
        .await
    };
    says("exit 1").await?;
    echo.allow(scene, "tcp", "client", &[9000]).await?;
    says("echo response: hello\nexit 0").await
}

async fn ports(scene: &Scene<'_>) -> Result<()> {
    let echo = Echo::new(scene).await?;
    echo.allow(scene, "tcp", "client", &[9000]).await?;
    echo.echoes(scene, &echo.client, 9000, true).await?;
    echo.echoes(scene, &echo.client, 9001, false).await?;
    echo.allow(scene, "tcp", "client", &[]).await?;
    echo.echoes(scene, &echo.client, 9001, true).await?;
    echo.echoes(scene, &echo.client, 9000, true).await
}

async fn union(scene: &Scene<'_>) -> Result<()> {
    let echo = Echo::new(scene).await?;
    let other = scene.client(&echo.client.namespace, "other").await?;
    echo.allow(scene, "one", "client", &[9000]).await?;
    echo.allow(scene, "two", "other", &[9001]).await?;
    echo.echoes(scene, &echo.client, 9000, true).await?;
    echo.echoes(scene, &other, 9001, true).await?;
    echo.echoes(scene, &other, 9000, false).await?;
    echo.allow(scene, "three", "client", &[9001]).await?;
    echo.echoes(scene, &echo.client, 9001, true).await?;
    echo.echoes(scene, &echo.client, 9000, true).await
}

async fn missing(scene: &Scene<'_>) -> Result<()> {
    let echo = Echo::new(scene).await?;
    let sources = [(echo.client.namespace.as_str(), "client")];
    let mut both = target(&echo.servers, "tcp", "server", &sources, json!({}));
    both["spec"]["rules"] = json!([rule("one"), rule("later")]);
    scene
        .apply(&[route(&echo.servers, "one", &[9000]), both])
        .await?;
    echo.echoes(scene, &echo.client, 9000, false).await?;
    scene
        .apply(&[route(&echo.servers, "later", &[9001])])
        .await?;
    echo.echoes(scene, &echo.client, 9000, true).await?;
    echo.echoes(scene, &echo.client, 9001, true).await
}

async fn server_first(scene: &Scene<'_>) -> Result<()> {
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    let port = json!([{ "name": "sql", "port": 3306, "appProtocol": "tcp-server-first" }]);
    let spec = json!({ "selector": { "app": "server" }, "ports": port });
    scene
        .apply(&[
            account(&servers, "server"),
            object("v1", "Service", &servers, "server", spec),
            deployment(
                &servers,
                "server",
                pod("server", container("banner", "banner", 3306)),
            ),
            route(&servers, "tcp", &[3306]),
            target(
                &servers,
                "tcp",
                "server",
                &[(&clients, "client")],
                rule("tcp"),
            ),
        ])
        .await?;
    let client = scene.client(&clients, "client").await?;
    scene.pod(&servers, "server", "banner").await?;
    // The client says nothing at all.
    let line = format!("sleep 3 | nc -w 3 server.{servers} 3306");
    eventually(PATIENCE, async || {
        let said = scene.sh(&client, &line).await?;
        ensure!(said.contains("220 banner ready"), "{line}: {said:?}");
        Ok(())
    })
    .await
}

/// A server of the small httpbin behind ports of these names and protocols, all granted.
async fn web(scene: &Scene<'_>, ports: Value) -> Result<(Pod, String)> {
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    let spec = json!({ "selector": { "app": "server" }, "ports": ports });
    let [group, mut all] = allow(&servers, "server", &[(&clients, "client")]);
    let rules = json!([all["spec"]["rules"][0].clone(), rule("tcp")]);
    all["spec"]["rules"] = rules;
    scene
        .apply(&[
            account(&servers, "server"),
            object("v1", "Service", &servers, "server", spec),
            deployment(&servers, "server", pod("server", named_httpbin(PORT))),
            route(&servers, "tcp", &[]),
            group,
            all,
        ])
        .await?;
    let client = scene.client(&clients, "client").await?;
    scene.pod(&servers, "server", "httpbin").await?;
    Ok((client, servers))
}

async fn protocols(scene: &Scene<'_>) -> Result<()> {
    let port = |number: u16, name: &str, protocol: Option<&str>| {
        let mut port = json!({ "name": name, "port": number, "targetPort": 8000 + number });
        if let Some(protocol) = protocol {
            port["appProtocol"] = json!(protocol);
        }
        port
    };
    let ports = json!([
        port(81, "plain", None),
        port(82, "http-x", None),
        port(83, "tcp-x", None),
        port(84, "tcp-y", Some("HTTP")),
        port(85, "http-y", Some("tcp")),
        port(86, "http-z", Some("kubernetes.io/h2c")),
    ]);
    let (client, servers) = web(scene, ports).await?;
    // A pod that listens on a port for each of them: two protocols on one would be one of the two.
    let containers: Vec<Value> = (81..87_u16)
        .map(|number| {
            let container = named_httpbin(8000 + number);
            with(container, &["name"], json!(format!("port-{number}")))
        })
        .collect();
    let spec = with(pod("server", json!({})), &["containers"], json!(containers));
    scene.apply(&[deployment(&servers, "server", spec)]).await?;
    scene.pod(&servers, "server", "port-81").await?;
    let get = |port: u16| format!("http://server.{servers}:{port}/get");
    for number in [81, 82, 84, 83, 85] {
        scene.curl(&client, &get(number), Ends::Status(200)).await?;
    }
    // A port of HTTP knows its hosts; an opaque one does not look.
    for (number, status) in [(81, 404), (82, 404), (84, 404), (83, 200), (85, 200)] {
        let request = format!("{} -H 'Host: nobody.example'", get(number));
        scene.curl(&client, &request, Ends::Status(status)).await?;
    }
    scene.curl(&client, &get(86), Ends::Closed).await
}

async fn several_services(scene: &Scene<'_>) -> Result<()> {
    let port = json!([{ "name": "http", "port": PORT }]);
    let (client, servers) = web(scene, port).await?;
    scene
        .apply(&[service(&servers, "second", "server", "http", PORT)])
        .await?;
    for name in ["server", "second"] {
        let url = format!("http://{name}.{servers}:{PORT}/get");
        scene.curl(&client, &url, Ends::Status(200)).await?;
    }
    Ok(())
}

async fn named_port(scene: &Scene<'_>) -> Result<()> {
    let port = json!([{ "name": "http", "port": 80, "targetPort": "web" }]);
    let (client, servers) = web(scene, port).await?;
    for (name, number) in [("first", 8001_u16), ("second", 8002)] {
        let mut container = named_httpbin(number);
        container["ports"] = json!([{ "name": "web", "containerPort": number }]);
        let mut spec = deployment(&servers, name, pod("server", container));
        for path in [
            &["spec", "selector", "matchLabels"][..],
            &["spec", "template", "metadata", "labels"],
        ] {
            spec = with(spec, path, json!({ "app": name, "role": "named" }));
        }
        scene.apply(&[spec]).await?;
        scene.pod(&servers, name, "httpbin").await?;
    }
    let spec = json!({
        "selector": { "role": "named" }, "ports": [{ "name": "http", "port": 80, "targetPort": "web" }]
    });
    scene
        .apply(&[object("v1", "Service", &servers, "named", spec)])
        .await?;
    let url = format!("http://named.{servers}/get");
    scene.everyone_answers(&client, &url, 2).await
}

async fn headless(scene: &Scene<'_>) -> Result<()> {
    let port = json!([{ "name": "http", "port": PORT }]);
    let (client, servers) = web(scene, port).await?;
    scale(scene, &servers, 3).await?;
    let spec = json!({
        "clusterIP": "None", "selector": { "app": "server" }, "ports": [{ "name": "http", "port": PORT }]
    });
    scene
        .apply(&[object("v1", "Service", &servers, "plain", spec)])
        .await?;
    let url = format!("http://plain.{servers}:{PORT}/get");
    scene.everyone_answers(&client, &url, 3).await
}

async fn scale(scene: &Scene<'_>, namespace: &str, count: usize) -> Result<()> {
    let replicas = format!("--replicas={count}");
    let words = ["scale", "deployment/server", "-n", namespace, &replicas];
    scene.stage.kubectl(&words).await?.text()?;
    let pods = scene.pods(namespace, "server", "httpbin", count).await;
    pods.map(drop)
}

async fn scaling(scene: &Scene<'_>) -> Result<()> {
    let port = json!([{ "name": "http", "port": PORT }]);
    let (client, servers) = web(scene, port).await?;
    let url = format!("http://server.{servers}:{PORT}/get");
    scale(scene, &servers, 3).await?;
    scene.everyone_answers(&client, &url, 3).await?;
    scale(scene, &servers, 1).await?;
    scene.curl(&client, &url, Ends::Status(200)).await?;
    let line = format!(
        "i=0; while [ $i -lt 50 ]; do curl -s -o /dev/null --max-time 5 -w '%{{http_code}}\\n' {url}; i=$((i+1)); done | sort | uniq -c"
    );
    let said = scene.sh(&client, &line).await?;
    ensure!(said.trim() == "50 200", "after scaling down: {said:?}");
    Ok(())
}

async fn no_endpoints(scene: &Scene<'_>) -> Result<()> {
    let port = json!([{ "name": "http", "port": PORT }]);
    let (client, servers) = web(scene, port).await?;
    let url = format!("http://server.{servers}:{PORT}/get");
    scene.curl(&client, &url, Ends::Status(200)).await?;
    let words = ["scale", "deployment/server", "-n", &servers, "--replicas=0"];
    scene.stage.kubectl(&words).await?.text()?;
    // With no pod left nobody is known to stand behind the name; while one goes its answer is 503.
    eventually(PATIENCE, async || {
        let seen = scene.requests(&client, &url, 5).await?;
        let gone = |(status, exit): &(u16, i32)| *status == 503 || [7, 52, 56].contains(exit);
        ensure!(seen.iter().all(gone), "without endpoints: {seen:?}");
        Ok(())
    })
    .await?;
    scale(scene, &servers, 1).await?;
    scene.curl(&client, &url, Ends::Status(200)).await
}
