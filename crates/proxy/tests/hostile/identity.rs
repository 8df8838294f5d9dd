//! Whom a connection is taken for, over its whole life: server names, certificates, their rotation.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::google::protobuf::BoolValue;
use rustls::ClientConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use xds::client::Kind;

use crate::recorder::Recorder;
use crate::stage::{ALLOWED, CLIENT, PATIENCE, SERVER, pair, statuses};
use crate::support::{
    Authority, Http, OWN, Proxy, allow, any, http_chain, listener, routes, socket, static_cluster,
};

const SNI: &str = "web.ns.svc.cluster.local";

/// A client of its own: no sidecar stands between it and the server's.
async fn connect(
    to: std::net::SocketAddr,
    root: &str,
    leaf: Option<Arc<CertifiedKey>>,
    sni: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let trust = ca::TrustStore::from_pem(root).unwrap();
    let servers = ca::ServerVerifier::uris(trust, vec![SERVER.to_owned()]);
    let builder = ClientConfig::builder_with_provider(ca::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(servers);
    let mut config = match leaf {
        Some(leaf) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
            Arc::unwrap_or_clone(leaf),
        ))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"osm".to_vec()];
    config.enable_sni = !sni.is_empty();
    let name = if sni.is_empty() { "none" } else { sni };
    let name = name.to_owned().try_into().unwrap();
    let stream = TcpStream::connect(to).await?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// The status of a request, `None` if the connection ends without.
async fn status(stream: std::io::Result<TlsStream<TcpStream>>, host: &str) -> Option<u16> {
    let mut stream = stream.ok()?;
    let request = format!("GET /public HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .ok()?;
    statuses(&String::from_utf8_lossy(&answer)).first().copied()
}

/// Only the server's sidecar, whose trust and certificate can be changed.
fn server(ca: &Authority, app: std::net::SocketAddr) -> Proxy {
    let mut server = Proxy::new(Some(ca.leaf("server")));
    let local = static_cluster("local", &[app], Http::One);
    server.push(Kind::Cluster, vec![("local", any(&local))], &[]);
    let mut chain = http_chain("in", Some(allow(CLIENT, ALLOWED)));
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            alpn_protocols: vec!["osm".into()],
            tls_certificate_sds_secret_configs: vec![tls::SdsSecretConfig {
                name: OWN.into(),
                ..Default::default()
            }],
            validation_context_type: Some(
                tls::common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig(
                    tls::SdsSecretConfig {
                        name: "trust".into(),
                        ..Default::default()
                    },
                ),
            ),
            ..Default::default()
        }),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    };
    chain.transport_socket = Some(socket("tls", any(&context)));
    trust(&mut server, &[ca]);
    let inbound = listener("inbound", vec![chain], true);
    server.push(Kind::Listener, vec![("inbound", any(&inbound))], &[]);
    let table = routes("in", vec![(".*", "local")]);
    server.push(Kind::Routes, vec![("in", any(&table))], &[]);
    // A secret is asked for when a chain names it.
    trust(&mut server, &[ca]);
    server
}

fn trust(server: &mut Proxy, roots: &[&Authority]) {
    let pem: String = roots.iter().map(|root| root.0.certificate_pem()).collect();
    let secret = tls::Secret {
        name: "trust".into(),
        r#type: Some(tls::secret::Type::ValidationContext(
            tls::CertificateValidationContext {
                trusted_ca: Some(core::DataSource {
                    specifier: Some(core::data_source::Specifier::InlineString(pem)),
                    ..Default::default()
                }),
                ..Default::default()
            },
        )),
    };
    server.push(Kind::Secret, vec![("trust", any(&secret))], &[]);
}

#[tokio::test]
async fn a_server_name_opens_its_own_hosts_only() {
    let backend = Recorder::new().await;
    let pair = pair(backend.address, Http::One);
    let inbound = pair.server.address("inbound");
    let leaf = || pair.client.shared.own.current();
    let root = pair.root.as_str();
    for (sni, host, expected) in [
        (SNI, "web.ns", Some(200)),
        (SNI, "WEB.ns", Some(200)),
        (SNI, "other", Some(404)),
        (SNI, "web.ns.evil", Some(404)),
        ("WEB.ns.svc.cluster.local", "web.ns", Some(200)),
        ("other.ns.svc.cluster.local", "web.ns", None),
        ("", "web.ns", None),
    ] {
        let got = status(connect(inbound, root, leaf(), sni).await, host).await;
        assert_eq!(got, expected, "server name {sni:?}, host {host:?}");
    }
    assert_eq!(
        status(connect(inbound, root, None, SNI).await, "web.ns").await,
        None
    );
    let stranger = Authority::new().leaf("client");
    assert_eq!(
        status(connect(inbound, root, Some(stranger), SNI).await, "web.ns").await,
        None
    );
    assert_eq!(backend.seen().len(), 3);
}

#[tokio::test]
async fn certificates_and_roots_rotate_under_a_stream() {
    let backend = Recorder::new().await;
    let (old, new) = (Authority::new(), Authority::new());
    let mut server = server(&old, backend.address);
    let at = server.address("inbound");
    let (old_root, new_root) = (old.0.certificate_pem(), new.0.certificate_pem());
    let mut stream = connect(at, old_root, Some(old.leaf("client")), SNI)
        .await
        .unwrap();
    let head =
        b"POST /public HTTP/1.1\r\nHost: web.ns\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    stream.write_all(head).await.unwrap();

    // First both roots, then the new certificate, then the new root alone: as an operator does it.
    trust(&mut server, &[&old, &new]);
    server.shared.own.replace(new.leaf("server"));
    let by_old = connect(at, new_root, Some(old.leaf("client")), SNI).await;
    assert_eq!(
        status(by_old, "web.ns").await,
        Some(200),
        "either root is trusted"
    );
    trust(&mut server, &[&new]);
    let by_old = connect(at, new_root, Some(old.leaf("client")), SNI).await;
    assert_eq!(status(by_old, "web.ns").await, None, "the old root is gone");
    let by_new = connect(at, new_root, Some(new.leaf("client")), SNI).await;
    assert_eq!(status(by_new, "web.ns").await, Some(200));

    // The stream that began before goes on to its end.
    stream.write_all(b"3\r\ndef\r\n0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok") {
        let read = timeout(PATIENCE, stream.read_buf(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
    }
    let whole = backend.seen();
    assert!(whole.iter().any(|seen| seen.body == b"abcdef"), "{whole:?}");
}

#[tokio::test]
async fn a_resumed_session_does_not_outlive_its_root() {
    let backend = Recorder::new().await;
    let (old, new) = (Authority::new(), Authority::new());
    let mut server = server(&old, backend.address);
    let at = server.address("inbound");
    // One configuration for all connections: rustls resumes with it.
    let trusting = ca::TrustStore::from_pem(old.0.certificate_pem()).unwrap();
    let leaf = Arc::unwrap_or_clone(old.leaf("client"));
    let mut config = ClientConfig::builder_with_provider(ca::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(ca::ServerVerifier::uris(trusting, vec![SERVER.into()]))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
    config.alpn_protocols = vec![b"osm".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let ask = async || {
        let stream = TcpStream::connect(at).await.unwrap();
        let stream = connector.connect(SNI.try_into().unwrap(), stream).await;
        let kind = stream
            .as_ref()
            .ok()
            .and_then(|stream| stream.get_ref().1.handshake_kind());
        (status(stream, "web.ns").await, kind)
    };
    assert_eq!(ask().await.0, Some(200));
    assert_eq!(
        ask().await,
        (Some(200), Some(rustls::HandshakeKind::Resumed))
    );
    trust(&mut server, &[&new]);
    assert_eq!(ask().await.0, None);
}
