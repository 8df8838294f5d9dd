//! The world outside the cluster: httpbin.org and openservicemesh.io on one address, on 80 and 443.

use std::path::PathBuf;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::certificates::certificates;
use crate::http::{Origin, listen, serve};
use crate::httpbin::{self, text_answer};
use crate::tcp;

/// `osm-apps outside`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A name to serve (may be given again)
    #[arg(long = "name", default_values_t = ["httpbin.org".to_owned(), "openservicemesh.io".to_owned()])]
    pub names: Vec<String>,
    /// Port for HTTP
    #[arg(long, default_value_t = 80)]
    pub http_port: u16,
    /// Port for HTTPS
    #[arg(long, default_value_t = 443)]
    pub https_port: u16,
    /// Another port for HTTP (may be given again)
    #[arg(long = "more-http-port")]
    pub more_http_ports: Vec<u16>,
    /// Port of a line echo
    #[arg(long)]
    pub echo_port: Option<u16>,
    /// Port of a server that speaks first
    #[arg(long)]
    pub banner_port: Option<u16>,
    /// File that receives the certificate authority, as PEM
    #[arg(long)]
    pub ca_out: Option<PathBuf>,
}

/// Serves until the process ends.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let certificates = certificates(&options.names)?;
    let https = listen(options.https_port).await?;
    let mut plain = vec![listen(options.http_port).await?];
    for port in &options.more_http_ports {
        plain.push(listen(*port).await?);
    }
    let mut servers = tokio::task::JoinSet::new();
    servers.spawn(serve(https, Some(certificates.server), answer));
    for listener in plain {
        servers.spawn(serve(listener, None, answer));
    }
    if let Some(port) = options.echo_port {
        servers.spawn(tcp::echo(tcp::EchoOptions {
            port,
            prefix: tcp::PREFIX.to_owned(),
        }));
    }
    if let Some(port) = options.banner_port {
        servers.spawn(tcp::banner(tcp::BannerOptions { port }));
    }
    if let Some(file) = &options.ca_out {
        std::fs::write(file, certificates.authority)
            .with_context(|| format!("{}: cannot be written", file.display()))?;
    }
    println!("outside: serving {}", options.names.join(", "));
    match servers.join_next().await {
        Some(ended) => ended?,
        None => Ok(()),
    }
}

async fn answer(request: Request<Incoming>, origin: Origin) -> Response<Full<Bytes>> {
    let name = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| request.uri().host())
        .map(|host| host.split(':').next().unwrap_or_default().to_owned());
    match name.as_deref() {
        Some("openservicemesh.io") => site(),
        _ => httpbin::answer(request, origin).await,
    }
}

/// The front page of a static site.
fn site() -> Response<Full<Bytes>> {
    let page = "<!DOCTYPE html>\n<title>Open Service Mesh</title>\n";
    let mut response = text_answer(StatusCode::OK, "text/html; charset=UTF-8", page);
    let headers = response.headers_mut();
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=0, must-revalidate"),
    );
    headers.insert(header::SERVER, HeaderValue::from_static("Netlify"));
    response
}
