//! What is measured: works, metrics, how often, and the bars.

use std::fmt;

use crate::load::Traffic;
use crate::mesh::Place;

/// A work: one file of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Work {
    /// HTTP/1.1 from end to end.
    Http1,
    /// HTTP/2 from end to end.
    Http2,
    /// Unary gRPC calls.
    Grpc,
    /// 1 KiB there and back on an opaque connection.
    TcpEcho,
    /// 1 MiB one way on an opaque connection.
    TcpBulk,
    /// A new opaque connection, with its mutual handshake.
    NewConnection,
    /// Anonymous memory.
    Memory,
}

/// A proxy that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arm {
    /// This project's.
    Ours,
    /// The equal: the same resources.
    Envoy,
    /// The same Envoy under a second name: what noise alone does to a ratio.
    EnvoyAgain,
    /// The floor.
    Haproxy,
    /// The floor.
    Nginx,
}

/// Exchanges whose processor time is measured.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Its name in the results.
    pub name: String,
    /// What is exchanged.
    pub traffic: Traffic,
    /// Exchanges a second.
    pub rate: u32,
    /// Exchanges of a window.
    pub count: u32,
    /// Windows of each of the pair's arms.
    pub rounds: u32,
    /// The most that ours may be of Envoy's.
    pub bar: f64,
}

/// Seconds of a window.
const WINDOW: f64 = 1.0;

// === impl Work ===

impl Work {
    /// All, in the order in which they are measured.
    pub const ALL: [Work; 7] = [
        Work::Http1,
        Work::Http2,
        Work::Grpc,
        Work::TcpEcho,
        Work::TcpBulk,
        Work::NewConnection,
        Work::Memory,
    ];

    /// Its metrics of processor time.
    pub fn metrics(self, quick: bool) -> Vec<Metric> {
        let rates: &[u32] = if quick { &[1000] } else { &[1000, 200, 2000] };
        let at = |traffic, bar| -> Vec<Metric> {
            let metric = |rate: &u32| {
                Metric::new(
                    format!("cpu_us_per_request_at_{rate}"),
                    traffic,
                    *rate,
                    bar,
                    quick,
                )
            };
            rates.iter().map(metric).collect()
        };
        let one =
            |name: &str, traffic, rate| Metric::new(name.to_owned(), traffic, rate, 1.1, quick);
        match self {
            Work::Http1 => at(Traffic::Http1, 0.5),
            Work::Http2 => at(Traffic::Http2, 0.6),
            Work::Grpc => at(Traffic::Grpc, 0.6),
            Work::TcpEcho => at(Traffic::Echo, 1.1),
            Work::TcpBulk => {
                vec![
                    one("cpu_us_per_mib_down", Traffic::Download, 100),
                    one("cpu_us_per_mib_up", Traffic::Upload, 100),
                ]
            }
            Work::NewConnection => vec![one("cpu_us_per_connection_at_200", Traffic::Connect, 200)],
            Work::Memory => Vec::new(),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Work::Http1 => "http1",
            Work::Http2 => "http2",
            Work::Grpc => "grpc",
            Work::TcpEcho => "tcp-echo",
            Work::TcpBulk => "tcp-bulk",
            Work::NewConnection => "new-connection",
            Work::Memory => "memory",
        })
    }
}

// === impl Metric ===

impl Metric {
    fn new(name: String, traffic: Traffic, rate: u32, bar: f64, quick: bool) -> Metric {
        // The rate between the extremes is the one that decides; it gets the most windows.
        let is_main =
            !matches!(rate, 2000) && !name.ends_with("_at_200") || traffic == Traffic::Connect;
        let rounds = match (quick, is_main) {
            (true, _) => 5,
            (false, true) => 12,
            (false, false) => 6,
        };
        // Few exchanges: the window is longer, so that what an idle proxy does beside them is in it evenly.
        let seconds = if rate <= 200 && traffic != Traffic::Connect && traffic != Traffic::Download
        {
            1.5 * WINDOW
        } else {
            WINDOW
        };
        let count = (f64::from(rate) * seconds) as u32;
        Metric {
            name,
            traffic,
            rate,
            count,
            rounds,
            bar,
        }
    }

    /// Where its clients connect.
    pub fn port(&self, place: &Place) -> u16 {
        match self.traffic {
            Traffic::Http1 | Traffic::ConnectHttp1 => place.ports.http1,
            Traffic::Http2 | Traffic::Grpc => place.ports.http2,
            Traffic::Echo | Traffic::Connect => place.ports.echo,
            Traffic::Download | Traffic::Upload => place.ports.bulk,
        }
    }

    /// The arms of a round. Every second round runs backwards: ABBA. The floor and the reference's
    /// second name are measured half as often.
    pub fn arms(&self, round: u32) -> Vec<Arm> {
        let mut arms = vec![Arm::Ours, Arm::Envoy];
        if (round / 2).is_multiple_of(2) {
            arms.extend([Arm::EnvoyAgain, Arm::Haproxy]);
            // nginx speaks no HTTP/2 to an upstream but gRPC's.
            if self.traffic != Traffic::Http2 {
                arms.push(Arm::Nginx);
            }
        }
        if round % 2 == 1 {
            arms.reverse();
        }
        arms
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arm::Ours => "osm-proxy",
            Arm::Envoy => "envoy",
            Arm::EnvoyAgain => "envoy (again)",
            Arm::Haproxy => "haproxy",
            Arm::Nginx => "nginx",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_alternate_their_order_and_every_arm_meets_both() {
        let metric = &Work::Grpc.metrics(false)[0];
        assert_eq!(metric.arms(0)[..2], [Arm::Ours, Arm::Envoy]);
        assert_eq!(metric.arms(1).last(), Some(&Arm::Ours));
        assert_eq!(metric.arms(0).first(), Some(&Arm::Ours));
        let with_nginx: Vec<u32> = (0..8)
            .filter(|round| metric.arms(*round).contains(&Arm::Nginx))
            .collect();
        assert_eq!(with_nginx, [0, 1, 4, 5]);
    }

    #[test]
    fn a_full_run_fits_its_time() {
        let metrics = Work::ALL.iter().flat_map(|work| work.metrics(false));
        let seconds: f64 = metrics
            .map(|metric| {
                let windows: usize = (0..metric.rounds)
                    .map(|round| metric.arms(round).len())
                    .sum();
                windows as f64 * f64::from(metric.count) / f64::from(metric.rate)
            })
            .sum();
        assert!((240.0..600.0).contains(&seconds), "{seconds}");
    }
}
