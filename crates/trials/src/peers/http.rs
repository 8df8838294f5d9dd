//! curl, nginx, h2load, WebSocket.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use testkit::ports;
use tokio::process::Child;

use super::program::{attempt, find, folder, run, serve};
use crate::Outcome;
use crate::stage::{LOCAL, Plan, Program, Protocol, Service, Stage};

/// Bytes of the large file.
const LARGE: usize = 10 << 20;

/// nginx with a small and a large file, an echo of methods and bodies, and an answer without end.
struct Nginx {
    address: SocketAddr,
    large: Vec<u8>,
    _folder: tempfile::TempDir,
    _child: Child,
}

async fn nginx() -> anyhow::Result<Option<Nginx>> {
    let Some(program) = find("nginx") else {
        return Ok(None);
    };
    let folder = folder()?;
    let address = SocketAddr::new(LOCAL, ports::free());
    let root = folder.path().display();
    // Not compressible, not periodic in the sizes of buffers.
    let large: Vec<u8> = (0..LARGE as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    std::fs::write(folder.path().join("small.txt"), "small\n")?;
    std::fs::write(folder.path().join("large.bin"), &large)?;
    let config = format!(
        r#"daemon off; master_process off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  client_max_body_size 100m; keepalive_requests 100000; sendfile on;
  server {{
    listen {address}; root {root};
    location /method {{ default_type text/plain; return 200 "$request_method $server_protocol $http_host\n"; }}
    location /upload {{ proxy_pass http://{address}/sink; }}
    location /sink {{ default_type text/plain; return 200 "length $content_length\n"; }}
    location /deny {{ return 403; }}
  }}
}}
"#
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, config)?;
    let file = file.display().to_string();
    let child = serve(&program, &["-c", &file], address).await?;
    Ok(Some(Nginx {
        address,
        large,
        _folder: folder,
        _child: child,
    }))
}

pub async fn curl() -> anyhow::Result<Outcome> {
    with_curl(&Plan::default(), &["--http1.1"]).await
}

pub async fn curl2() -> anyhow::Result<Outcome> {
    with_curl(&Plan::default(), &["--http2-prior-knowledge"]).await
}

pub async fn our_client() -> anyhow::Result<Outcome> {
    mixed(Plan {
        server: Program::Envoy,
        ..Plan::default()
    })
    .await
}

pub async fn our_server() -> anyhow::Result<Outcome> {
    mixed(Plan {
        client: Program::Envoy,
        ..Plan::default()
    })
    .await
}

async fn mixed(plan: Plan) -> anyhow::Result<Outcome> {
    if testkit::process::envoy_binary().is_none() {
        return Ok(Outcome::Skipped("no Envoy: scripts/envoy says why".into()));
    }
    for http in [&["--http1.1"], &["--http2-prior-knowledge"]] {
        with_curl(&plan, http)
            .await
            .with_context(|| http.join(" "))?;
    }
    Ok(Outcome::Good("both versions, the same checks".into()))
}

async fn with_curl(plan: &Plan, http: &[&str]) -> anyhow::Result<Outcome> {
    let (Some(curl), Some(nginx)) = (find("curl"), nginx().await?) else {
        return Ok(Outcome::Skipped(
            "curl or nginx is not installed (scripts/deps trials)".into(),
        ));
    };
    let stage = Stage::plan(
        plan,
        vec![Service::new("web", Protocol::Http1, nginx.address)],
    )
    .await?;
    let front = stage.service("web")?.front();
    let url = |path: &str| format!("http://{front}{path}");
    let ask = async |arguments: &[&str]| {
        run(
            &curl,
            &[&["-sS", "--max-time", "30"], http, arguments].concat(),
        )
        .await
    };
    ensure!(
        ask(&[&url("/small.txt")]).await? == "small\n",
        "a small file"
    );
    let method = ask(&["-X", "DELETE", &url("/method")]).await?;
    ensure!(method.starts_with("DELETE HTTP/1.1 "), "a method: {method}");
    let head = ask(&["-I", &url("/large.bin")]).await?;
    ensure!(
        head.to_ascii_lowercase()
            .contains(&format!("content-length: {LARGE}")),
        "HEAD: {head}"
    );
    let folder = folder()?;
    let got = folder.path().join("got").display().to_string();
    ask(&["-o", &got, &url("/large.bin")]).await?;
    ensure!(
        std::fs::read(&got)? == nginx.large,
        "a large file arrives as it is"
    );
    ask(&["-o", &got, "-r", "1000-1999", &url("/large.bin")]).await?;
    ensure!(std::fs::read(&got)? == nginx.large[1000..2000], "a range");
    let put = folder.path().join("put").display().to_string();
    std::fs::write(&put, &nginx.large)?;
    // nginx' own hop to itself makes a length of it.
    let body = format!("@{put}");
    for more in [
        &["-H", "Expect: 100-continue"][..],
        &["-H", "Expect:"],
        &["-H", "Transfer-Encoding: chunked"],
    ] {
        let told = ask(&[more, &["--data-binary", &body, &url("/upload")]].concat()).await?;
        ensure!(
            told == format!("length {LARGE}\n"),
            "an upload {more:?}: {told}"
        );
    }
    for (path, status) in [("/small.txt", "200"), ("/deny", "403"), ("/nothing", "404")] {
        let told = ask(&["-o", "/dev/null", "-w", "%{http_code}", &url(path)]).await?;
        ensure!(told == status, "{path}: {told}");
    }
    if http.contains(&"--http1.1") {
        // Not with HTTP/2: curl 7.88 cannot use a connection of prior knowledge again.
        let (first, second) = (url("/small.txt"), url("/deny"));
        let told = ask(&[
            "-o",
            "/dev/null",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{num_connects} ",
            &first,
            &second,
        ])
        .await?;
        ensure!(
            told == "200 1 403 0 ",
            "two requests on one connection: {told}"
        );
        let (_, told) = attempt(&curl, &["-sS", "--http2", &url("/method")]).await?;
        ensure!(
            told.starts_with("GET HTTP/1.1"),
            "an offer of h2c is not taken: {told}"
        );
        let (_, told) = attempt(&curl, &["-sS", "--http1.0", &url("/small.txt")]).await?;
        // HTTP/1.0 is off unless a listener switches it on, as in Envoy.
        ensure!(
            told == "small\n"
                || told.is_empty()
                || told.contains("426")
                || told.contains("Upgrade Required"),
            "HTTP/1.0: {told}"
        );
    }
    Ok(Outcome::Good(format!(
        "files, ranges, uploads of {} MiB, keep-alive, statuses",
        LARGE >> 20
    )))
}

pub async fn h2load() -> anyhow::Result<Outcome> {
    let (Some(h2load), Some(nginx)) = (find("h2load"), nginx().await?) else {
        return Ok(Outcome::Skipped(
            "h2load or nginx is not installed (scripts/deps trials)".into(),
        ));
    };
    let stage = Stage::start(vec![Service::new("web", Protocol::Http1, nginx.address)]).await?;
    let url = format!("http://{}/small.txt", stage.service("web")?.front());
    let mut told = Vec::new();
    for (name, more) in [("h2", &["-m", "10"][..]), ("h1", &["--h1"])] {
        let printed = run(
            &h2load,
            &[&["-n", "3000", "-c", "8"], more, &[&url]].concat(),
        )
        .await?;
        ensure!(
            printed.contains("3000 succeeded, 0 failed, 0 errored"),
            "{name}: {printed}"
        );
        ensure!(
            printed.contains("status codes: 3000 2xx"),
            "{name}: {printed}"
        );
        told.push(format!("{name} 3000 of 3000"));
    }
    Ok(Outcome::Good(told.join(", ")))
}

pub async fn websocket() -> anyhow::Result<Outcome> {
    let Some(python) = super::grpc::python_with_packages().await? else {
        return Ok(Outcome::Skipped(
            "no Python with websockets (scripts/python-peers says why)".into(),
        ));
    };
    let folder = folder()?;
    let script = folder.path().join("websocket.py");
    std::fs::write(&script, include_str!("websocket.py"))?;
    let script = script.display().to_string();
    let at = SocketAddr::new(LOCAL, ports::free());
    let port = at.port().to_string();
    let _server = serve(&python, &[&script, "server", &port], at).await?;
    let stage = Stage::start(vec![Service::new("ws", Protocol::Http1, at)]).await?;
    let front = stage.service("ws")?.front.to_string();
    let told = run(&python, &[&script, "client", &front]).await?;
    if !told.contains("all well") {
        bail!("{told}");
    }
    Ok(Outcome::Good(
        "text, 1 MiB, ping, close code, 20 at once".into(),
    ))
}
