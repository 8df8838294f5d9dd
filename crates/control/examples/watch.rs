//! A stand-in for a proxy that prints what it is sent: gets a certificate for a token, opens an
//! incremental stream, follows all kinds.
//!
//! `watch ADDRESS SERVER-NAME ROOT.pem TOKEN-FILE UUID SERVICE-ACCOUNT NAMESPACE [FOLDER]`
//!
//! With a folder it only gets the certificate and writes `leaf.pem` and `key.pem` there, for a stock Envoy.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use ca::{Identity, PrivateKey, ServerVerifier, TrustStore};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use xds::certificate::{CertificateClient, CertificateRequest};
use xds::server::Kind;

type Certificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [
        address,
        server,
        root,
        token,
        uuid,
        account,
        namespace,
        folder @ ..,
    ] = &args[..]
    else {
        anyhow::bail!(
            "watch ADDRESS SERVER-NAME ROOT.pem TOKEN-FILE UUID SERVICE-ACCOUNT NAMESPACE"
        );
    };
    let trust = TrustStore::from_pem(&std::fs::read_to_string(root)?)?;
    let identity = Identity::new("cluster.local", account, namespace)?;
    let key = PrivateKey::generate()?;
    let request = CertificateRequest {
        csr: key.signing_request(&identity)?,
        validity_duration: 0,
    };
    let mut client = CertificateClient::new(channel(address, server, &trust, None).await?);
    let response = client
        .create_certificate(request, &std::fs::read_to_string(token)?)
        .await?;
    let chain = ca::parse_certificates(response.cert_chain.first().context("no certificate")?)?;
    let leaf = chain.first().context("no certificate")?;
    println!("certificate for {}", Identity::from_certificate(leaf)?);

    if let [folder] = folder {
        let folder = std::path::Path::new(folder);
        std::fs::write(folder.join("leaf.pem"), response.cert_chain.concat())?;
        return Ok(std::fs::write(
            folder.join("key.pem"),
            key.to_pem().as_bytes(),
        )?);
    }
    let channel = channel(address, server, &trust, Some((chain, key.to_rustls()))).await?;
    follow(channel, format!("{uuid}.sidecar.{}", identity.dns_name())).await
}

async fn channel(
    address: &str,
    server: &str,
    trust: &Arc<TrustStore>,
    certificate: Option<Certificate>,
) -> anyhow::Result<Channel> {
    let builder = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(ServerVerifier::dns(trust.clone(), server)?);
    let mut config = match certificate {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let (address, server) = (address.to_owned(), server.to_owned());
    let connect = tower::service_fn(move |_| {
        let (connector, address, server) = (connector.clone(), address.clone(), server.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from(server).map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    Ok(Endpoint::from_static("http://osm-controller")
        .connect_with_connector(connect)
        .await?)
}

async fn follow(channel: Channel, id: String) -> anyhow::Result<()> {
    let (requests, outgoing) = mpsc::channel(64);
    for kind in [Kind::Cluster, Kind::Listener] {
        let node = Some(Node {
            id: id.clone(),
            ..Node::default()
        });
        requests
            .send(DeltaDiscoveryRequest {
                node,
                type_url: kind.type_url().into(),
                ..Default::default()
            })
            .await?;
    }
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut responses = client
        .delta_aggregated_resources(ReceiverStream::new(outgoing))
        .await?
        .into_inner();
    let mut held: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    while let Some(response) = responses.message().await? {
        let kind = Kind::of(&response.type_url).context("a kind nobody asked for")?;
        let names: Vec<&str> = response.resources.iter().map(|r| r.name.as_str()).collect();
        println!(
            "{} + {names:?} - {:?}",
            kind.short(),
            response.removed_resources
        );
        let of_kind = held.entry(kind.short().to_owned()).or_default();
        for resource in &response.resources {
            of_kind.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &response.removed_resources {
            of_kind.remove(name);
        }
        if kind == Kind::Cluster {
            let subscribe = names.iter().map(|name| (*name).to_owned()).collect();
            let type_url = Kind::Endpoints.type_url().into();
            let ask = DeltaDiscoveryRequest {
                type_url,
                resource_names_subscribe: subscribe,
                ..Default::default()
            };
            requests.send(ask).await?;
        }
        let (type_url, response_nonce) = (response.type_url, response.nonce);
        requests
            .send(DeltaDiscoveryRequest {
                type_url,
                response_nonce,
                ..Default::default()
            })
            .await?;
    }
    Ok(())
}
