//! Rarer cases of splits and of opaque TCP, and what upgrades.

use anyhow::{Result, ensure};
use e2e::eventually;
use serde_json::{Value, json};

use super::split::{Shop, split};
use super::tcp::{Echo, container, route, rule};
use super::traffic::PATIENCE;
use super::{Scenario, scenario};
use crate::manifest::{PORT, account, allow, deployment, object, pod, service, target, with};
use crate::scene::{Ends, Scene};

/// The scenarios of this file.
pub const ALL: &[Scenario] = &[
    scenario!(
        "SPEC-10",
        P1,
        upgrade,
        "a WebSocket through both sidecars, under the same grants"
    ),
    scenario!(
        "SPLIT-11",
        P1,
        other_port,
        "a backend without the apex's port is left out"
    ),
    scenario!(
        "SPLIT-13",
        P1,
        two_splits,
        "of two splits of an apex the first by name counts"
    ),
    scenario!(
        "SPLIT-21",
        P1,
        outsiders,
        "clients outside the mesh are not split"
    ),
    scenario!(
        "TCP-08",
        P1,
        undeclared,
        "a server that speaks first on a port declared otherwise"
    ),
    scenario!(
        "TCP-17",
        P1,
        idle,
        "a connection that idles outlives pushes of other things"
    ),
];

/// What speaks WebSocket's handshake and then echoes bytes, in the words of the standard library.
const WEBSOCKET_SERVER: &str = r#"
import base64, hashlib, socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.rfile.readline(65536) or exit()
        words = {k.strip().lower(): v.strip() for k, _, v in (l.partition(b":") for l in head.split(b"\r\n")[1:])}
        if words.get(b"upgrade", b"").lower() != b"websocket":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"); return
        key = hashlib.sha1(words[b"sec-websocket-key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: " + base64.b64encode(key) + b"\r\n\r\n")
        while data := self.request.recv(65536):
            self.wfile.write(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
Server(("0.0.0.0", 14001), Echo).serve_forever()
"#;

/// Asks for a page, and prints the status line and what comes back of two frames.
const WEBSOCKET_CLIENT: &str = r#"
import socket, sys
host, page = sys.argv[1:]
s = socket.create_connection((host, 14001), 10)
s.sendall(f"GET {page} HTTP/1.1\r\nhost: {host}:14001\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
f = s.makefile("rb")
print(f.readline().decode().strip())
while (line := f.readline()) not in (b"\r\n", b""):
    if line.lower().startswith(b"sec-websocket-accept"): print(line.decode().strip())
for frame in (b"\x82\x03one", b"\x82\x03two"):
    s.sendall(frame); print(f.read(5))
"#;

async fn upgrade(scene: &Scene<'_>) -> Result<()> {
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    let python = |name: &str, command: Value| json!({ "name": name, "image": "python", "imagePullPolicy": "IfNotPresent", "command": command });
    let server = python("server", json!(["python3", "-c", WEBSOCKET_SERVER]));
    let client = python("client", json!(["sleep", "365d"]));
    let mut grants = allow(&servers, "server", &[(&clients, "client")]);
    grants[0]["spec"]["matches"][0]["pathRegex"] = json!("/socket");
    scene
        .apply(&[
            account(&servers, "server"),
            service(&servers, "server", "server", "http", PORT),
            deployment(&servers, "server", pod("server", server)),
            account(&clients, "client"),
            deployment(&clients, "client", pod("client", client)),
        ])
        .await?;
    scene.apply(&grants).await?;
    scene.pod(&servers, "server", "server").await?;
    let client = scene.pod(&clients, "client", "client").await?;
    let host = format!("server.{servers}");
    let says = async |page: &str, wanted: &[&str]| {
        eventually(PATIENCE, async || {
            let command = [
                "timeout",
                "20",
                "python3",
                "-c",
                WEBSOCKET_CLIENT,
                &host,
                page,
            ];
            let said = scene.exec(&client, &command).await?.both();
            ensure!(
                wanted.iter().all(|words| said.contains(words)),
                "{page}: {said}"
            );
            Ok(())
        })
        .await
    };
    let echoed = [
        " 101 ",
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "\\x82\\x03one",
        "\\x82\\x03two",
    ];
    says("/socket", &echoed).await?;
    says("/elsewhere", &[" 403 "]).await
}

async fn other_port(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1", "v2"]).await?;
    shop.split(scene, &[("v1", 50), ("v2", 50)]).await?;
    shop.divides(scene, &[("v1", 50), ("v2", 50)], 15).await?;
    let moved = service(&shop.servers, "v2", "v2", "http", 9090);
    let moved = with(moved, &["spec", "ports", "0", "targetPort"], json!(PORT));
    scene.apply(&[moved]).await?;
    shop.divides(scene, &[("v1", 100)], 0).await
}

async fn two_splits(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1", "v2"]).await?;
    let named = |name: &str, weights: &[(&str, u32)]| {
        let object = split(&shop.servers, "shop", weights);
        with(object, &["metadata", "name"], json!(name))
    };
    scene
        .apply(&[named("b", &[("v1", 100)]), named("a", &[("v2", 100)])])
        .await?;
    shop.divides(scene, &[("v2", 100)], 0).await?;
    scene.delete("trafficsplit", &shop.servers, "a").await?;
    shop.divides(scene, &[("v1", 100)], 0).await
}

async fn outsiders(scene: &Scene<'_>) -> Result<()> {
    let shop = Shop::new(scene, &["v1", "v2"]).await?;
    shop.split(scene, &[("v2", 100)]).await?;
    shop.divides(scene, &[("v2", 100)], 0).await?;
    // The apex's own pods are the first backend's.
    let ingress = json!({
        "backends": [{ "name": "v1", "port": { "number": PORT, "protocol": "http" } }],
        "sources": [{ "kind": "IPRange", "name": "0.0.0.0/0" }]
    });
    let group = "policy.openservicemesh.io/v1alpha1";
    scene
        .apply(&[object(
            group,
            "IngressBackend",
            &shop.servers,
            "in",
            ingress,
        )])
        .await?;
    let outside = scene.plain_namespace("outside").await?;
    let stranger = scene.client(&outside, "client").await?;
    let url = shop.url("shop");
    scene.curl(&stranger, &url, Ends::Status(200)).await?;
    let line = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do curl -s -o /dev/null -D - --max-time 10 {url} | grep -i podname; done"
    );
    let said = scene.sh(&stranger, &line).await?;
    let of = |name: &str| said.matches(&format!("podname: {name}-")).count();
    ensure!((of("v1"), of("v2")) == (10, 0), "{said}");
    Ok(())
}

async fn undeclared(scene: &Scene<'_>) -> Result<()> {
    let clients = scene.namespace("client").await?;
    let servers = scene.namespace("server").await?;
    let named = |name: &str| service(&servers, "server", "server", name, 3306);
    let spec = pod("server", container("banner", "banner", 3306));
    let mut both = target(
        &servers,
        "both",
        "server",
        &[(&clients, "client")],
        rule("tcp"),
    );
    let [group, all] = allow(&servers, "server", &[(&clients, "client")]);
    both["spec"]["rules"] = json!([rule("tcp"), all["spec"]["rules"][0].clone()]);
    scene
        .apply(&[
            account(&servers, "server"),
            named("tcp-sql"),
            deployment(&servers, "server", spec),
            route(&servers, "tcp", &[3306]),
            group,
            both,
        ])
        .await?;
    let client = scene.client(&clients, "client").await?;
    scene.pod(&servers, "server", "banner").await?;
    let line = format!("sleep 3 | nc -w 3 server.{servers} 3306");
    let says = async |wanted: bool| {
        eventually(PATIENCE, async || {
            let said = scene.sh(&client, &line).await?;
            let greeted = said.contains("220 banner ready");
            // Nothing else either: what is not the server's greeting must not look like one.
            ensure!(
                greeted == wanted && (wanted || said.trim().is_empty()),
                "{said:?}"
            );
            Ok(())
        })
        .await
    };
    // As `tcp` it is heard, although `tcp-server-first` would be right.
    says(true).await?;
    scene.apply(&[named("http-sql")]).await?;
    says(false).await?;
    scene.apply(&[named("tcp-sql")]).await?;
    says(true).await
}

async fn idle(scene: &Scene<'_>) -> Result<()> {
    let echo = Echo::new(scene).await?;
    let sources = [(echo.client.namespace.as_str(), "client")];
    scene
        .apply(&[
            route(&echo.servers, "one", &[9000]),
            target(&echo.servers, "tcp", "server", &sources, rule("one")),
        ])
        .await?;
    echo.echoes(scene, &echo.client, 9000, true).await?;
    let line = format!(
        "(echo before; sleep 20; echo after) | timeout 40 nc -N server.{} 9000",
        echo.servers
    );
    let talk = scene.sh(&echo.client, &line);
    let pushes = async {
        for number in 0..10_u16 {
            let name = format!("other-{number}");
            let other = service(&echo.servers, &name, "server", "tcp-other", 7000 + number);
            scene
                .apply(&[other, route(&echo.servers, &name, &[9001])])
                .await?;
        }
        Ok::<(), anyhow::Error>(())
    };
    let (said, pushed) = tokio::join!(talk, pushes);
    pushed?;
    let said = said?;
    ensure!(
        said.contains("echo response: before") && said.contains("echo response: after"),
        "{said:?}"
    );
    Ok(())
}
