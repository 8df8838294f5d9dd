//! The pair of a client's and a server's sidecar before a recorder, as strict as its configuration lets it be.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3 as listener_pb;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use xds::client::Kind;

use crate::support::{
    Authority, Http, Proxy, allow, any, http_chain, listener, mesh_cluster, routes, static_cluster,
    with_mtls,
};

pub const CLIENT: &str = "spiffe://cluster.local/client/ns";
pub const SERVER: &str = "spiffe://cluster.local/server/ns";
/// What the server's policy lets the client see.
pub const ALLOWED: &str = "/(public|smuggled)(/.*)?";
/// How long anything may take here before the test says so.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Both sidecars.
pub struct Pair {
    pub client: Proxy,
    pub server: Proxy,
    /// Where the client's application connects to.
    pub front: SocketAddr,
    /// Whom both trust, PEM.
    pub root: String,
}

/// The pair; the mesh hop speaks `hop`.
pub fn pair(app: SocketAddr, hop: Http) -> Pair {
    let ca = Authority::new();
    let mut server = Proxy::new(Some(ca.leaf("server")));
    let local = static_cluster("local", &[app], Http::One);
    server.push(Kind::Cluster, vec![("local", any(&local))], &[]);
    let chain = manage(http_chain("in", Some(allow(CLIENT, ALLOWED))), |manager| {
        manager.forward_client_cert_details =
            hcm::http_connection_manager::ForwardClientCertDetails::SanitizeSet.into();
        manager.set_current_client_cert_details =
            Some(hcm::http_connection_manager::SetCurrentClientCertDetails {
                uri: true,
                ..Default::default()
            });
    });
    let inbound = listener("inbound", vec![with_mtls(chain, &ca)], true);
    server.push(Kind::Listener, vec![("inbound", any(&inbound))], &[]);
    let table = routes("in", vec![(".*", "local")]);
    server.push(Kind::Routes, vec![("in", any(&table))], &[]);

    let mut client = Proxy::new(Some(ca.leaf("client")));
    let mesh = mesh_cluster("mesh", server.address("inbound"), hop, &ca, &[SERVER]);
    client.push(Kind::Cluster, vec![("mesh", any(&mesh))], &[]);
    let chain = manage(http_chain("out", None), |manager| {
        manager.use_remote_address = Some(BoolValue { value: true });
        manager.http2_protocol_options = Some(Default::default());
        if let Some(options) = &mut manager.http2_protocol_options {
            options.max_concurrent_streams = Some(UInt32Value { value: 100 });
        }
    });
    let outbound = listener("outbound", vec![chain], false);
    client.push(Kind::Listener, vec![("outbound", any(&outbound))], &[]);
    let table = routes("out", vec![(".*", "mesh")]);
    client.push(Kind::Routes, vec![("out", any(&table))], &[]);
    let front = client.address("outbound");
    Pair {
        client,
        server,
        front,
        root: ca.0.certificate_pem().to_owned(),
    }
}

/// Changes a chain's connection manager.
pub fn manage(
    mut chain: listener_pb::FilterChain,
    change: impl FnOnce(&mut hcm::HttpConnectionManager),
) -> listener_pb::FilterChain {
    let filter = chain.filters.last_mut().unwrap();
    let Some(listener_pb::filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else {
        panic!("a typed configuration");
    };
    let mut manager = hcm::HttpConnectionManager::decode(config.value.as_slice()).unwrap();
    manager.merge_slashes = true;
    change(&mut manager);
    config.value = manager.encode_to_vec();
    chain
}

/// Sends bytes and reads until the proxy closes or `enough` holds. What the proxy said, Latin-1, and whether it closed.
pub async fn say(front: SocketAddr, bytes: &[u8], enough: impl Fn(&str) -> bool) -> (String, bool) {
    let mut stream = TcpStream::connect(front).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut said = String::new();
    let listen = async {
        let mut buffer = [0u8; 4096];
        while !enough(&said) {
            match read.read(&mut buffer).await {
                Ok(length) if length > 0 => {
                    said.extend(buffer[..length].iter().map(|byte| char::from(*byte)))
                }
                _ => return true,
            }
        }
        false
    };
    let speak = async {
        // The proxy may have closed already: that is an answer, too.
        let _ = write.write_all(bytes).await;
        std::future::pending::<()>().await;
    };
    let closed = timeout(PATIENCE, async {
        tokio::select! { closed = listen => closed, () = speak => false }
    })
    .await
    .unwrap_or(false);
    (said, closed)
}

/// The statuses of all answers in a text.
pub fn statuses(said: &str) -> Vec<u16> {
    let lines = said.split("HTTP/1.").skip(1);
    lines
        .filter_map(|line| line.get(2..5)?.parse().ok())
        .collect()
}
