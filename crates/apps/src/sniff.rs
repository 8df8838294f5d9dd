//! Watches packets: a raw socket that sees what is on the wire, for proofs that it is TLS and not the request in clear text.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use packet::segment;

mod packet;

/// `osm-apps sniff`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Network interface to watch
    #[arg(long, default_value = "eth0")]
    pub interface: String,
    /// TCP port to watch, as source or destination
    #[arg(long)]
    pub port: u16,
    /// A text that the request carries
    #[arg(long)]
    pub marker: String,
    /// How long to watch, in seconds
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// End after this many packets with payload
    #[arg(long, default_value_t = 12)]
    pub packets: u64,
}

/// What was seen.
#[derive(Debug, Default)]
struct Tally {
    packets: u64,
    bytes: u64,
    tls_records: u64,
    with_marker: u64,
    first: Vec<u8>,
    /// The end of the last payload, so that a marker across two packets is found.
    tail: Vec<u8>,
}

/// Largest packet on the interfaces of pods, loopback included.
const MAX_PACKET: usize = 70_000;

/// How often the deadline is looked at while nothing comes.
const TICK: Duration = Duration::from_millis(100);

/// Bytes of the first payload that are shown.
const SHOWN: usize = 16;

/// Watches and reports; the first line says that it watches.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let index = if_nametoindex(options.interface.as_str())
        .with_context(|| format!("interface {}", options.interface))?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("raw socket (capability NET_RAW)")?;
    setsockopt(
        &socket,
        sockopt::ReceiveTimeout,
        &TimeVal::milliseconds(TICK.as_millis() as i64),
    )?;
    println!("watching port {} on {}", options.port, options.interface);
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    let mut tally = Tally::default();
    let mut buffer = vec![0; MAX_PACKET];
    while tally.packets < options.packets && Instant::now() < deadline {
        let (length, from) = match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return Err(error).context("raw socket"),
        };
        let here = from.is_some_and(|from| u32::try_from(from.ifindex()) == Ok(index));
        if here
            && let Some(payload) = buffer
                .get(..length)
                .and_then(|packet| segment(packet, options.port))
        {
            tally.add(payload, options.marker.as_bytes());
        }
    }
    tally.report(&options.marker);
    Ok(())
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, payload: &[u8], marker: &[u8]) {
        if payload.is_empty() {
            return;
        }
        if self.first.is_empty() {
            self.first = payload.iter().take(SHOWN).copied().collect();
        }
        self.packets += 1;
        self.bytes += payload.len() as u64;
        self.tls_records += u64::from(is_tls_record(payload));
        let joined = [self.tail.as_slice(), payload].concat();
        self.with_marker += u64::from(
            !marker.is_empty() && joined.windows(marker.len()).any(|window| window == marker),
        );
        let keep = marker.len().saturating_sub(1).min(payload.len());
        self.tail = payload.iter().skip(payload.len() - keep).copied().collect();
    }

    fn report(&self, marker: &str) {
        let hex: Vec<String> = self
            .first
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        println!(
            "packets with payload: {}, bytes: {}",
            self.packets, self.bytes
        );
        println!("first bytes: {}", hex.join(" "));
        println!("packets that begin a TLS record: {}", self.tls_records);
        println!(
            "packets with {marker:?} in clear text: {}",
            self.with_marker
        );
    }
}

/// Content type 20 to 23, then version 3.x (RFC 8446 §5.1).
fn is_tls_record(payload: &[u8]) -> bool {
    matches!(payload, [20..=23, 3, 0..=4, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_across_two_packets_is_found() {
        let mut tally = Tally::default();
        tally.add(b"GET /anything/mar", b"marker");
        tally.add(b"ker HTTP/1.1", b"marker");
        assert_eq!(
            (tally.packets, tally.with_marker, tally.tls_records),
            (2, 1, 0)
        );
    }

    #[test]
    fn tls_records_are_told_from_text() {
        assert!(is_tls_record(&[0x16, 3, 1, 2, 0]));
        assert!(is_tls_record(&[0x17, 3, 3, 0, 9]));
        assert!(!is_tls_record(b"GET / HTTP/1.1"));
        assert!(!is_tls_record(b""));
    }
}
