//! The cluster DNS on the DNS Service's address: Services, pods, and the names of ConfigMap `kube-system/dns`.

mod zone;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, PTR, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::net::{TcpListener, UdpSocket};

use crate::catalog::SharedCatalog;
use crate::mirror::Mirror;

pub use zone::{Data, Hosts};

/// Seconds a client may keep an answer: as short as CoreDNS's `kubernetes` plug-in has it.
const TTL: u32 = 5;
/// An alias of an alias … is followed so far.
const ALIASES: usize = 8;
/// Idle TCP connections are closed after this time.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers waiting to be written per TCP connection.
const TCP_QUEUE: usize = 32;

/// The DNS server's content.
#[derive(Clone)]
pub struct Dns {
    domain: String,
    catalog: SharedCatalog,
    hosts: Arc<parking_lot::RwLock<Hosts>>,
}

// === impl Dns ===

impl Dns {
    /// A server for the zone `domain` (`cluster.local`).
    pub fn new(domain: &str, catalog: SharedCatalog) -> Self {
        Self {
            domain: domain.to_owned(),
            catalog,
            hosts: Arc::default(),
        }
    }

    /// Replaces the names outside the zone.
    pub fn set_hosts(&self, text: &str) {
        let (hosts, bad) = Hosts::parse(text);
        for line in bad {
            tracing::warn!(
                line,
                "ConfigMap kube-system/dns, key hosts: not \"IP name [name…]\""
            );
        }
        *self.hosts.write() = hosts;
    }

    /// Takes the names outside the zone from ConfigMap `dns`, live, until dropped.
    pub async fn follow_hosts(&self, config_maps: &Mirror<ConfigMap>) {
        let mut changes = config_maps.changes();
        loop {
            let config_map = config_maps.object("kube-system", "dns");
            let text = config_map
                .as_ref()
                .and_then(|m| m.data.as_ref()?.get("hosts"));
            self.set_hosts(text.map_or("", String::as_str));
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Answers on UDP and TCP at the addresses until dropped.
    pub async fn serve(&self, addresses: &[SocketAddr]) -> io::Result<()> {
        let mut server = Server::new(self.clone());
        for address in addresses {
            let named = |e: io::Error| io::Error::new(e.kind(), format!("DNS on {address}: {e}"));
            server.register_socket(UdpSocket::bind(address).await.map_err(named)?);
            server.register_listener(
                TcpListener::bind(address).await.map_err(named)?,
                TCP_IDLE,
                TCP_QUEUE,
            );
        }
        server.block_until_done().await.map_err(io::Error::other)
    }

    /// The records that answer a question, aliases followed; `None`: no such name.
    fn answer(&self, name: &str, wanted: RecordType) -> Option<Vec<(String, Data)>> {
        let mut current = name.trim_end_matches('.').to_ascii_lowercase();
        let mut answers = Vec::new();
        for _ in 0..ALIASES {
            // A look-up takes microseconds; the lock is not held across a wait.
            let found = zone::lookup(&self.domain, &self.catalog, &self.hosts.read(), &current);
            let Some(found) = found else {
                return (!answers.is_empty()).then_some(answers);
            };
            let alias = found.iter().find_map(|d| {
                if let Data::Alias(to) = d {
                    Some(to.clone())
                } else {
                    None
                }
            });
            answers.extend(
                found
                    .into_iter()
                    .filter(|d| matches(d, wanted))
                    .map(|d| (current.clone(), d)),
            );
            match alias {
                Some(to) if wanted != RecordType::CNAME => current = to,
                _ => break,
            }
        }
        Some(answers)
    }
}

impl RequestHandler for Dns {
    // What `async_trait` makes of the trait's method, written out.
    fn handle_request<'a, 'b, 'c, R, T>(
        &'a self,
        request: &'b Request,
        response: R,
    ) -> Answering<'c>
    where
        R: ResponseHandler + 'c,
        T: Time + 'c,
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(self.respond(request, response))
    }
}

/// The future of one answer.
type Answering<'a> = Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'a>>;

impl Dns {
    async fn respond<R: ResponseHandler>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let builder = MessageResponseBuilder::from_message_request(request);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        metadata.recursion_available = true;
        let sent = match request.request_info() {
            Ok(info) => {
                let answers = self.answer(&info.query.name().to_string(), info.query.query_type());
                if answers.is_none() {
                    metadata.response_code = ResponseCode::NXDomain;
                }
                let records: Vec<_> = answers
                    .iter()
                    .flatten()
                    .filter_map(|(name, data)| record(name, data))
                    .collect();
                response
                    .send_response(builder.build(metadata, records.iter(), [], [], []))
                    .await
            }
            Err(_) => {
                response
                    .send_response(builder.error_msg(&request.metadata, ResponseCode::FormErr))
                    .await
            }
        };
        sent.unwrap_or_else(|error| {
            tracing::debug!(%error, "a DNS answer could not be sent");
            ResponseInfo::from(hickory_server::proto::op::Header {
                metadata,
                counts: hickory_server::proto::op::HeaderCounts::default(),
            })
        })
    }
}

fn matches(data: &Data, wanted: RecordType) -> bool {
    let own = match data {
        Data::Address(IpAddr::V4(_)) => RecordType::A,
        Data::Address(IpAddr::V6(_)) => RecordType::AAAA,
        Data::Alias(_) => return true,
        Data::Server(..) => RecordType::SRV,
        Data::Pointer(_) => RecordType::PTR,
    };
    wanted == own || wanted == RecordType::ANY
}

fn record(name: &str, data: &Data) -> Option<Record> {
    let fqdn = |name: &str| Name::from_str(&format!("{name}.")).ok();
    let content = match data {
        Data::Address(IpAddr::V4(ip)) => RData::A(A(*ip)),
        Data::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
        Data::Alias(to) => RData::CNAME(CNAME(fqdn(to)?)),
        Data::Server(port, host) => RData::SRV(SRV::new(0, 100, *port, fqdn(host)?)),
        Data::Pointer(to) => RData::PTR(PTR(fqdn(to)?)),
    };
    Some(Record::from_rdata(fqdn(name)?, TTL, content))
}

#[cfg(test)]
mod tests {
    use hickory_resolver::Resolver;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use serde_json::json;

    use super::*;
    use crate::catalog::Catalog;

    #[tokio::test]
    async fn names_are_answered_over_udp_and_tcp_and_aliases_followed() {
        let read = |value| serde_json::from_value(value).unwrap();
        let services = Mirror::fixed([
            read(
                json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {"clusterIP": "10.96.1.1"}}),
            ),
            read(
                json!({"metadata": {"namespace": "shop", "name": "ext"}, "spec": {"type": "ExternalName", "externalName": "HTTPBIN.org"}}),
            ),
        ]);
        let dns = Dns::new(
            "cluster.local",
            Arc::new(Catalog {
                services,
                ..Catalog::default()
            }),
        );
        dns.set_hosts("203.0.113.10 httpbin.org\n2001:db8::10 httpbin.org");
        // A port that is free for both protocols.
        let port = UdpSocket::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let serving = tokio::spawn(async move { dns.serve(&[address]).await });
        for mut connection in [ConnectionConfig::udp(), ConnectionConfig::tcp()] {
            connection.port = port;
            let servers = vec![NameServerConfig::new(address.ip(), true, vec![connection])];
            let config = ResolverConfig::from_name_servers(servers);
            let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default())
                .build()
                .unwrap();
            let ips = async |name: &str| {
                let found = resolver.lookup_ip(name).await;
                found
                    .map(|f| f.iter().map(|ip| ip.to_string()).collect::<Vec<_>>())
                    .map_err(|e| e.is_nx_domain())
            };
            assert_eq!(
                ips("web.shop.svc.cluster.local.").await,
                Ok(vec!["10.96.1.1".to_owned()])
            );
            assert_eq!(ips("none.shop.svc.cluster.local.").await, Err(true));
            let mut alias = ips("ext.shop.svc.cluster.local.").await.unwrap();
            alias.sort();
            assert_eq!(alias, ["2001:db8::10", "203.0.113.10"]);
        }
        serving.abort();
    }
}
