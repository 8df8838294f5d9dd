//! Which filter chain takes a connection: Envoy's order of precedence, without backtracking.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// A chain's conditions; an empty one holds for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainMatch {
    /// The destination's port.
    pub port: Option<u16>,
    /// The destination's address.
    pub destinations: Vec<IpNet>,
    /// Server names, lower case; `.example.com` stands for `*.example.com`.
    pub server_names: Vec<String>,
    /// `tls` or `raw_buffer`.
    pub transport: Option<String>,
    /// ALPN names, or what the HTTP inspector saw.
    pub applications: Vec<String>,
    /// The address of the connection's other end.
    pub direct_sources: Vec<IpNet>,
    /// From this host, or from elsewhere.
    pub source_kind: SourceKind,
    /// The source's address.
    pub sources: Vec<IpNet>,
    /// The source's port.
    pub source_ports: Vec<u16>,
}

/// Where a connection may come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SourceKind {
    /// Anywhere.
    #[default]
    Any,
    /// The destination's own address, or loopback.
    Local,
    /// Anywhere else.
    External,
}

/// A connection as it is known after the listener filters.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The (original) destination.
    pub destination: SocketAddr,
    /// The source.
    pub source: SocketAddr,
    /// The connection's other end, which a PROXY header may speak for another.
    pub direct_source: IpAddr,
    /// A TLS ClientHello was seen.
    pub is_tls: bool,
    /// Its server name, lower case.
    pub server_name: Option<String>,
    /// Its ALPN names, or what the HTTP inspector saw.
    pub applications: Vec<String>,
}

/// The chains of a listener, ready to be searched.
#[derive(Debug, Default, Clone)]
pub struct ChainTable {
    chains: Vec<ChainMatch>,
    by_port: HashMap<Option<u16>, Vec<usize>>,
}

// === impl ChainMatch ===

impl ChainMatch {
    /// Whether some connection would fit both equally well: every property has a value in common, or is in neither.
    fn overlaps(&self, other: &ChainMatch) -> bool {
        fn common<T: PartialEq>(one: &[T], other: &[T]) -> bool {
            match (one, other) {
                ([], []) => true,
                _ => one.iter().any(|value| other.contains(value)),
            }
        }
        self.port == other.port
            && self.transport == other.transport
            && self.source_kind == other.source_kind
            && common(&self.destinations, &other.destinations)
            && common(&self.server_names, &other.server_names)
            && common(&self.applications, &other.applications)
            && common(&self.direct_sources, &other.direct_sources)
            && common(&self.sources, &other.sources)
            && common(&self.source_ports, &other.source_ports)
    }
}

// === impl ChainTable ===

impl ChainTable {
    /// A table; `Err` names two chains that some connections fit equally well.
    pub fn new(chains: Vec<ChainMatch>) -> Result<ChainTable, (usize, usize)> {
        let mut by_port: HashMap<Option<u16>, Vec<usize>> = HashMap::new();
        for (index, chain) in chains.iter().enumerate() {
            let same = by_port.entry(chain.port).or_default();
            let twin = (same.iter()).find(|other| {
                chains
                    .get(**other)
                    .is_some_and(|other| other.overlaps(chain))
            });
            if let Some(twin) = twin {
                return Err((*twin, index));
            }
            same.push(index);
        }
        Ok(ChainTable { chains, by_port })
    }

    /// The index of the chain for a connection.
    pub fn find(&self, arrival: &Arrival) -> Option<usize> {
        // Once a port has chains of its own, those without a port are out, as in Envoy.
        let indices = self
            .by_port
            .get(&Some(arrival.destination.port()))
            .or_else(|| self.by_port.get(&None))?;
        let mut left: Vec<(usize, &ChainMatch)> = indices
            .iter()
            .filter_map(|index| Some((*index, self.chains.get(*index)?)))
            .collect();
        let address = arrival.destination.ip();
        keep_longest(&mut left, address, |chain| &chain.destinations);
        keep_server_name(&mut left, arrival.server_name.as_deref());
        let transport = if arrival.is_tls { "tls" } else { "raw_buffer" };
        keep(
            &mut left,
            |chain| chain.transport.as_deref() == Some(transport),
            |chain| chain.transport.is_none(),
        );
        keep_application(&mut left, &arrival.applications);
        let source = arrival.source.ip();
        keep_longest(&mut left, arrival.direct_source, |chain| {
            &chain.direct_sources
        });
        let kind = if source == address || source.is_loopback() {
            SourceKind::Local
        } else {
            SourceKind::External
        };
        keep(
            &mut left,
            |chain| chain.source_kind == kind,
            |chain| chain.source_kind == SourceKind::Any,
        );
        keep_longest(&mut left, source, |chain| &chain.sources);
        let port = arrival.source.port();
        keep(
            &mut left,
            |chain| chain.source_ports.contains(&port),
            |chain| chain.source_ports.is_empty(),
        );
        left.first().map(|(index, _)| *index)
    }
}

/// Keeps the chains that name the property; if none does, those that do not care.
fn keep(
    left: &mut Vec<(usize, &ChainMatch)>,
    named: impl Fn(&ChainMatch) -> bool,
    indifferent: impl Fn(&ChainMatch) -> bool,
) {
    if left.iter().any(|(_, chain)| named(chain)) {
        left.retain(|(_, chain)| named(chain));
    } else {
        left.retain(|(_, chain)| indifferent(chain));
    }
}

/// Keeps the chains with the longest prefix that holds the address.
fn keep_longest(
    left: &mut Vec<(usize, &ChainMatch)>,
    address: IpAddr,
    ranges: impl for<'a> Fn(&'a ChainMatch) -> &'a [IpNet],
) {
    let length = |chain: &ChainMatch| {
        ranges(chain)
            .iter()
            .filter(|range| range.contains(&address))
            .map(|range| range.prefix_len())
            .max()
    };
    match left.iter().filter_map(|(_, chain)| length(chain)).max() {
        Some(longest) => left.retain(|(_, chain)| length(chain) == Some(longest)),
        None => left.retain(|(_, chain)| ranges(chain).is_empty()),
    }
}

/// Keeps the exact server name, else the longest wildcard, else the chains without one.
fn keep_server_name(left: &mut Vec<(usize, &ChainMatch)>, server_name: Option<&str>) {
    let length = |chain: &ChainMatch| {
        let server_name = server_name?;
        let matching = chain
            .server_names
            .iter()
            .filter(|name| match name.strip_prefix('.') {
                // The wildcard stands for at least one label: `example.com` itself is not under it.
                Some(_) => server_name.len() > name.len() && server_name.ends_with(name.as_str()),
                None => name.as_str() == server_name,
            });
        // An exact name is longer than any wildcard that matches the same server name.
        matching
            .map(|name| {
                if name.starts_with('.') {
                    name.len()
                } else {
                    usize::MAX
                }
            })
            .max()
    };
    match left.iter().filter_map(|(_, chain)| length(chain)).max() {
        Some(longest) => left.retain(|(_, chain)| length(chain) == Some(longest)),
        None => left.retain(|(_, chain)| chain.server_names.is_empty()),
    }
}

/// Keeps the chains of the client's first application protocol that any chain names.
fn keep_application(left: &mut Vec<(usize, &ChainMatch)>, applications: &[String]) {
    let chosen = applications.iter().find(|name| {
        left.iter()
            .any(|(_, chain)| chain.applications.contains(name))
    });
    match chosen {
        Some(name) => left.retain(|(_, chain)| chain.applications.contains(name)),
        None => left.retain(|(_, chain)| chain.applications.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(change: impl FnOnce(&mut ChainMatch)) -> ChainMatch {
        let mut chain = ChainMatch::default();
        change(&mut chain);
        chain
    }

    fn arrival(destination: &str, change: impl FnOnce(&mut Arrival)) -> Arrival {
        let mut arrival = Arrival {
            destination: destination.parse().unwrap(),
            source: "10.9.9.9:4000".parse().unwrap(),
            direct_source: "10.9.9.9".parse().unwrap(),
            is_tls: false,
            server_name: None,
            applications: Vec::new(),
        };
        change(&mut arrival);
        arrival
    }

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn envoys_order_of_precedence() {
        let chains = vec![
            chain(|c| c.port = Some(80)),
            chain(|c| c.destinations = nets(&["10.0.0.0/8"])),
            chain(|c| {
                c.port = Some(443);
                c.destinations = nets(&["10.1.0.0/16"]);
            }),
            chain(|c| {
                c.port = Some(443);
                c.destinations = nets(&["10.1.2.0/24"]);
                c.server_names = vec!["a.example.com".into()];
            }),
            chain(|c| {
                c.port = Some(8443);
                c.server_names = vec!["a.example.com".into()];
            }),
            chain(|c| {
                c.port = Some(8443);
                c.server_names = vec![".example.com".into()];
            }),
            chain(|c| {
                c.port = Some(8443);
                c.server_names = vec![".b.example.com".into()];
            }),
            chain(|c| c.port = Some(8443)),
            chain(|c| {
                c.port = Some(9);
                c.transport = Some("tls".into());
                c.applications = vec!["osm".into()];
            }),
            chain(|c| {
                c.port = Some(9);
                c.applications = vec!["http/1.1".into(), "h2c".into()];
            }),
            chain(|c| {
                c.port = Some(7);
                c.source_kind = SourceKind::Local;
            }),
            chain(|c| {
                c.port = Some(7);
                c.sources = nets(&["10.9.0.0/16"]);
            }),
        ];
        let sni = |name: &str| {
            let name = name.to_owned();
            move |a: &mut Arrival| {
                a.is_tls = true;
                a.server_name = Some(name);
            }
        };
        let table = ChainTable::new(chains).unwrap();
        let cases: Vec<(&str, Arrival, Option<usize>)> = vec![
            (
                "the port wins over prefixes",
                arrival("10.0.0.1:80", |_| {}),
                Some(0),
            ),
            (
                "a prefix without port",
                arrival("10.0.0.1:81", |_| {}),
                Some(1),
            ),
            ("no chain at all", arrival("11.0.0.1:81", |_| {}), None),
            (
                "no way back from a port",
                arrival("10.7.0.1:443", |_| {}),
                None,
            ),
            (
                "the longest prefix, then no way back",
                arrival("10.1.2.3:443", |_| {}),
                None,
            ),
            (
                "the longest prefix with its name",
                arrival("10.1.2.3:443", sni("a.example.com")),
                Some(3),
            ),
            (
                "the shorter prefix elsewhere",
                arrival("10.1.3.3:443", |_| {}),
                Some(2),
            ),
            (
                "an exact name",
                arrival("1.1.1.1:8443", sni("a.example.com")),
                Some(4),
            ),
            (
                "a wildcard",
                arrival("1.1.1.1:8443", sni("c.example.com")),
                Some(5),
            ),
            (
                "the longer wildcard",
                arrival("1.1.1.1:8443", sni("x.b.example.com")),
                Some(6),
            ),
            (
                "an apex is not under its wildcard",
                arrival("1.1.1.1:8443", sni("example.com")),
                Some(7),
            ),
            (
                "another name",
                arrival("1.1.1.1:8443", sni("evil.org")),
                Some(7),
            ),
            (
                "transport and application",
                arrival("1.1.1.1:9", |a| {
                    a.is_tls = true;
                    a.applications = vec!["h2".into(), "osm".into()];
                }),
                Some(8),
            ),
            (
                "inspected HTTP",
                arrival("1.1.1.1:9", |a| a.applications = vec!["h2c".into()]),
                Some(9),
            ),
            ("not inspected", arrival("1.1.1.1:9", |_| {}), None),
            ("from elsewhere", arrival("1.1.1.1:7", |_| {}), Some(11)),
            ("from here", arrival("10.9.9.9:7", |_| {}), Some(10)),
        ];
        for (what, arrival, expected) in cases {
            assert_eq!(table.find(&arrival), expected, "{what}");
        }
    }

    #[test]
    fn two_chains_with_the_same_conditions_are_told() {
        let same = chain(|c| c.port = Some(80));
        assert_eq!(
            ChainTable::new(vec![same.clone(), ChainMatch::default(), same]).unwrap_err(),
            (0, 2)
        );
    }
}
