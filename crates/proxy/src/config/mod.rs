//! Protobuf in, typed and checked configuration out. Nothing behind this module knows Envoy's protobuf.

mod access;
mod cluster;
mod edge;
mod filters;
mod format;
mod hash;
mod http;
mod listener;
mod matching;
pub(crate) mod overload;
mod rbac;
mod reply;
mod route;
pub mod support;
mod tls;
pub(crate) mod tracing;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf as wkt;
use prost::{Message, Name};
use xds::client::{Any, Kind, Parsed, Parser, Reference, Rejected};

use crate::cluster::{Assignment, ClusterConfig};
use crate::listener::Listener;
use crate::route::RouteTable;
use crate::tls::Secret;

/// One resource, typed.
#[derive(Debug)]
pub enum Value {
    /// CDS.
    Cluster(Arc<ClusterConfig>),
    /// EDS.
    Endpoints(Arc<Assignment>),
    /// LDS.
    Listener(Arc<Listener>),
    /// RDS.
    Routes(Arc<RouteTable>),
    /// SDS.
    Secret(Secret),
}

/// A typed resource and which of its fields were ignored.
#[derive(Debug)]
pub struct Resource {
    /// The typed value.
    pub value: Value,
    /// Set, and of no effect.
    pub ignored: support::Ignored,
}

/// The parser the xDS machine is driven with.
#[derive(Debug)]
pub struct ConfigParser {
    /// The secret that stands for the proxy's own certificate, never asked for; empty where it has none of its own.
    pub own_certificate: Arc<str>,
}

impl Parser for ConfigParser {
    type Value = Resource;

    fn parse(&mut self, kind: Kind, name: &str, any: &Any) -> Result<Parsed<Resource>, Rejected> {
        let bytes = any.value.as_slice();
        let ignored = support::check(kind, bytes)?;
        let mut context = Context {
            own_certificate: self.own_certificate.clone(),
            references: Vec::new(),
        };
        let value = match kind {
            Kind::Cluster => {
                Value::Cluster(Arc::new(cluster::cluster(decode(bytes)?, &mut context)?))
            }
            Kind::Endpoints => Value::Endpoints(Arc::new(cluster::assignment(&decode(bytes)?)?)),
            Kind::Listener => {
                Value::Listener(Arc::new(listener::listener(decode(bytes)?, &mut context)?))
            }
            Kind::Routes => Value::Routes(Arc::new(route::table(&decode(bytes)?)?)),
            Kind::Secret => Value::Secret(tls::secret(decode(bytes)?)?),
        };
        ::tracing::debug!(%name, kind = kind.short(), ignored = ignored.len(), "resource accepted");
        Ok(Parsed {
            value: Resource { value, ignored },
            references: context.references,
        })
    }
}

/// What a translation needs and collects.
struct Context {
    own_certificate: Arc<str>,
    references: Vec<Reference>,
}

impl Context {
    fn needs(&mut self, kind: Kind, name: &str) -> Arc<str> {
        let name: Arc<str> = name.into();
        let reference = Reference {
            kind,
            name: name.clone(),
        };
        if !self.references.contains(&reference) {
            self.references.push(reference);
        }
        name
    }
}

/// The outcome of a translation.
type Checked<T> = Result<T, Rejected>;

/// Puts a path in front of a refusal's path.
trait At<T> {
    fn at(self, path: impl std::fmt::Display) -> Checked<T>;
}

impl<T> At<T> for Checked<T> {
    fn at(self, path: impl std::fmt::Display) -> Checked<T> {
        self.map_err(|rejected| {
            let joined = match rejected.path.as_str() {
                "" => path.to_string(),
                inner => format!("{path}.{inner}"),
            };
            Rejected::new(joined, rejected.reason)
        })
    }
}

/// A refusal of the value itself; [`At::at`] adds where it stands.
fn refuse<T>(reason: impl Into<String>) -> Checked<T> {
    Err(Rejected::new("", reason))
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Checked<M> {
    M::decode(bytes).or_else(|error| refuse(format!("not a protobuf message: {error}")))
}

/// Decodes an extension if it is an `M`.
fn extension<M: Message + Name + Default>(any: &wkt::Any) -> Option<Checked<M>> {
    (any.type_url.rsplit('/').next() == Some(&M::full_name())).then(|| decode(&any.value))
}

/// Translates each element and names the one that is refused.
fn each<T, U>(field: &str, list: &[T], translate: impl FnMut(&T) -> Checked<U>) -> Checked<Vec<U>> {
    let mut translate = translate;
    list.iter()
        .enumerate()
        .map(|(index, item)| translate(item).at(format_args!("{field}[{index}]")))
        .collect()
}

fn duration(value: &wkt::Duration) -> Checked<Duration> {
    let seconds = u64::try_from(value.seconds);
    let nanos = u32::try_from(value.nanos);
    match (seconds, nanos) {
        // As protobuf: at most ten thousand years, and less than a second of nanoseconds.
        (Ok(seconds), Ok(nanos)) if seconds <= 315_576_000_000 && nanos < 1_000_000_000 => {
            Ok(Duration::new(seconds, nanos))
        }
        _ => refuse("not a duration of zero or more"),
    }
}

/// A duration that may be absent; zero switches off.
fn limit(value: Option<&wkt::Duration>, default: Option<Duration>) -> Checked<Option<Duration>> {
    match value {
        None => Ok(default),
        Some(value) => Ok(Some(duration(value)?).filter(|duration| !duration.is_zero())),
    }
}

fn flag(value: Option<&wkt::BoolValue>, default: bool) -> bool {
    value.map_or(default, |value| value.value)
}

fn port(number: u32) -> Checked<u16> {
    u16::try_from(number).or_else(|_| refuse(format!("{number} is not a port")))
}

fn socket_address(address: Option<&core::Address>) -> Checked<&core::SocketAddress> {
    match address.and_then(|address| address.address.as_ref()) {
        Some(core::address::Address::SocketAddress(socket)) => Ok(socket),
        _ => refuse("a socket_address is needed"),
    }
}

fn port_of(socket: &core::SocketAddress) -> Checked<u16> {
    match &socket.port_specifier {
        Some(core::socket_address::PortSpecifier::PortValue(number)) => {
            port(*number).at("port_value")
        }
        _ => refuse("a port_value is needed"),
    }
}

fn ip_address(socket: &core::SocketAddress) -> Checked<SocketAddr> {
    let ip: IpAddr = socket
        .address
        .parse()
        .or_else(|_| refuse(format!("{:?} is not an IP address", socket.address)).at("address"))?;
    Ok(SocketAddr::new(ip, port_of(socket)?))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
