//! The measured pairs: ours and Envoy from the same resources, HAProxy and nginx from files.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde_json::json;
use testkit::Ads;

use crate::backend::Ports;
use crate::certificates::Certificates;
use crate::mesh::{self, Place};
use crate::plan::{Arm, Metric};
use crate::processes::Process;
use crate::static_peers;

/// Programs to measure; one that is not there is not measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Programs {
    /// This project's proxy.
    #[arg(long)]
    pub proxy: PathBuf,
    /// Envoy.
    #[arg(long)]
    pub envoy: Option<PathBuf>,
    /// HAProxy.
    #[arg(long)]
    pub haproxy: Option<PathBuf>,
    /// nginx.
    #[arg(long)]
    pub nginx: Option<PathBuf>,
}

/// Everything that is needed to start a pair.
#[derive(Debug)]
pub struct Stage {
    programs: Programs,
    certificates: Certificates,
    ads: Ads,
    folder: PathBuf,
    ports: Ports,
    next: u8,
}

/// A running pair.
#[derive(Debug)]
pub struct Pair {
    /// Where it is.
    pub place: Place,
    /// The client's sidecar.
    pub outbound: Process,
    /// The server's sidecar, for as long as the pair lives.
    _inbound: Process,
    ids: Vec<u32>,
}

/// All running pairs.
#[derive(Debug, Default)]
pub struct Peers {
    pairs: HashMap<Arm, Pair>,
}

// === impl Stage ===

impl Stage {
    /// Backends, control plane, certificates; files go to the folder.
    pub async fn set(programs: Programs, folder: &Path, ports: Ports) -> anyhow::Result<Stage> {
        let ads = Ads::start().await;
        Ok(Stage {
            programs,
            certificates: Certificates::issue()?,
            ads,
            folder: folder.to_owned(),
            ports,
            next: 1,
        })
    }

    /// Starts all pairs that can be; says which cannot.
    pub async fn peers(&mut self) -> anyhow::Result<Peers> {
        let mut peers = Peers::default();
        for arm in [Arm::Ours, Arm::Envoy, Arm::Haproxy, Arm::Nginx] {
            match self.pair(arm, 0).await {
                Ok(pair) => drop(peers.pairs.insert(arm, pair)),
                Err(error) => eprintln!("bench: without {arm}: {error:#}"),
            }
        }
        Ok(peers)
    }

    /// Starts a pair whose client's sidecar also knows so many services that nobody calls.
    pub async fn pair(&mut self, arm: Arm, idle_services: usize) -> anyhow::Result<Pair> {
        let place = Place::new(self.next, self.ports);
        self.next += 1;
        let (mut outbound, mut inbound) = match arm {
            Arm::Haproxy | Arm::Nginx => self.with_files(arm, &place)?,
            Arm::Ours | Arm::Envoy | Arm::EnvoyAgain => {
                self.with_resources(arm, &place, idle_services)?
            }
        };
        for port in place.all_ports() {
            for (process, address) in [
                (&mut inbound, place.inbound),
                (&mut outbound, place.outbound),
            ] {
                let listening = process.listens((address, port)).await;
                listening.with_context(|| {
                    let refused = [mesh::CLIENT, mesh::SERVER]
                        .map(|account| self.ads.refusals(&node(arm, &place, account)));
                    format!("refused by proxies: {refused:?}")
                })?;
            }
        }
        let ids = vec![outbound.id(), inbound.id()];
        Ok(Pair {
            place,
            outbound,
            _inbound: inbound,
            ids,
        })
    }

    fn with_resources(
        &self,
        arm: Arm,
        place: &Place,
        idle_services: usize,
    ) -> anyhow::Result<(Process, Process)> {
        let program = match arm {
            Arm::Ours => Some(&self.programs.proxy),
            _ => self.programs.envoy.as_ref(),
        };
        let program = program.context("not on this machine")?;
        let pair = mesh::pair(place, &self.certificates, idle_services)?;
        let start = |account: &str, snapshot| {
            let name = node(arm, place, account);
            self.ads.replace(&name, Arc::new(snapshot));
            let file = self.folder.join(format!("{name}.json"));
            std::fs::write(&file, serde_json::to_string_pretty(&self.bootstrap(&name))?)?;
            let file = file.to_str().context("the folder's name is no text")?;
            let arguments: &[&str] = match arm {
                Arm::Ours => &["run", "-c", file, "-l", "warn"],
                _ => &[
                    "-c",
                    file,
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "--log-level",
                    "warn",
                ],
            };
            Process::start(&self.folder, &name, program, arguments)
        };
        Ok((
            start(mesh::CLIENT, pair.outbound)?,
            start(mesh::SERVER, pair.inbound)?,
        ))
    }

    /// Envoy's bootstrap, which is ours, too.
    fn bootstrap(&self, node: &str) -> serde_json::Value {
        let ads = json!({ "ads": {}, "resource_api_version": "V3" });
        let address = json!({ "socket_address": { "address": self.ads.address().ip(), "port_value": self.ads.address().port() } });
        json!({
            "node": { "id": node, "cluster": mesh::NAMESPACE },
            "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } },
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC", "transport_api_version": "V3",
                    "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds" } }],
                },
                "cds_config": ads, "lds_config": ads,
            },
            "static_resources": { "clusters": [{
                "name": "xds", "type": "STATIC", "connect_timeout": "5s",
                "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http2_protocol_options": {} },
                } },
                "load_assignment": { "cluster_name": "xds", "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }] },
            }] },
        })
    }

    fn with_files(&self, arm: Arm, place: &Place) -> anyhow::Result<(Process, Process)> {
        let files = self.certificates.write(&self.folder)?;
        let (program, out, inn) = match arm {
            Arm::Haproxy => {
                let texts = (
                    static_peers::haproxy_outbound(place, &files),
                    static_peers::haproxy_inbound(place, &files),
                );
                (&self.programs.haproxy, texts.0, texts.1)
            }
            _ => {
                let texts = (
                    static_peers::nginx_outbound(place, &files),
                    static_peers::nginx_inbound(place, &files),
                );
                (&self.programs.nginx, texts.0, texts.1)
            }
        };
        let program = program.as_ref().context("not on this machine")?;
        let start = |account: &str, text: String| {
            let name = format!("{arm}-{account}");
            let file = self.folder.join(format!("{name}.conf"));
            std::fs::write(&file, text)?;
            let file = file.to_str().context("the folder's name is no text")?;
            let pid = format!("pid {file}.pid;");
            let arguments: &[&str] = match arm {
                Arm::Haproxy => &["-db", "-f", file],
                _ => &["-c", file, "-g", &pid],
            };
            Process::start(&self.folder, &name, program, arguments)
        };
        Ok((start(mesh::CLIENT, out)?, start(mesh::SERVER, inn)?))
    }
}

/// A sidecar's name at the management server.
fn node(arm: Arm, place: &Place, account: &str) -> String {
    format!("{arm}-{}-{account}", place.outbound)
}

// === impl Peers ===

impl Peers {
    /// Those that run.
    pub fn arms(&self) -> Vec<Arm> {
        let all = [
            Arm::Ours,
            Arm::Envoy,
            Arm::EnvoyAgain,
            Arm::Haproxy,
            Arm::Nginx,
        ];
        all.into_iter()
            .filter(|arm| self.pair(*arm).is_some())
            .collect()
    }

    /// Where clients of an arm connect.
    pub fn address(&self, arm: Arm, metric: &Metric) -> SocketAddr {
        let place = self.pair(arm).map(|pair| pair.place);
        place.map_or(([127, 0, 0, 1], 0).into(), |place| {
            SocketAddr::new(IpAddr::V4(place.outbound), metric.port(&place))
        })
    }

    /// The processes of an arm.
    pub fn processes(&self, arm: Arm) -> &[u32] {
        self.pair(arm).map_or(&[], |pair| &pair.ids)
    }

    fn pair(&self, arm: Arm) -> Option<&Pair> {
        let arm = if arm == Arm::EnvoyAgain {
            Arm::Envoy
        } else {
            arm
        };
        self.pairs.get(&arm)
    }
}
