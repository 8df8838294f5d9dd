//! The TCP payload of an IPv4 or IPv6 packet.

/// Protocol number of TCP.
const TCP: u8 = 6;

/// The payload if the packet is TCP from or to the port.
pub fn segment(packet: &[u8], port: u16) -> Option<&[u8]> {
    let tcp = match packet.first()? >> 4 {
        4 => ipv4(packet)?,
        6 => ipv6(packet)?,
        _ => return None,
    };
    let word = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    if word(0)? != port && word(2)? != port {
        return None;
    }
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    tcp.get(header..)
}

fn ipv4(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    // The length is zero on packets that the kernel has yet to cut (segmentation offload).
    let end = if total == 0 { packet.len() } else { total };
    if *packet.get(9)? != TCP {
        None
    } else {
        packet.get(header..end)
    }
}

/// Pods send no extension headers, so TCP follows the fixed header or this is no TCP.
fn ipv6(packet: &[u8]) -> Option<&[u8]> {
    if *packet.get(6)? != TCP {
        None
    } else {
        packet.get(40..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0; 20];
        tcp[..2].copy_from_slice(&source.to_be_bytes());
        tcp[2..4].copy_from_slice(&destination.to_be_bytes());
        tcp[12] = 5 << 4;
        [tcp.as_slice(), payload].concat()
    }

    fn over_ipv4(tcp: &[u8]) -> Vec<u8> {
        let mut ip = vec![0; 20];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&u16::try_from(20 + tcp.len()).expect("short").to_be_bytes());
        ip[9] = TCP;
        [ip.as_slice(), tcp].concat()
    }

    #[test]
    fn payloads_are_found_in_both_families_and_directions() {
        let mut ip6 = vec![0; 40];
        ip6[0] = 0x60;
        ip6[6] = TCP;
        let six = [ip6.as_slice(), &tcp(40000, 80, b"six")].concat();
        assert_eq!(
            segment(&over_ipv4(&tcp(80, 40000, b"four")), 80),
            Some(&b"four"[..])
        );
        assert_eq!(segment(&six, 80), Some(&b"six"[..]));
        assert_eq!(segment(&over_ipv4(&tcp(81, 40000, b"four")), 80), None);
    }

    #[test]
    fn cut_packets_are_no_payload() {
        let whole = over_ipv4(&tcp(80, 1, b"x"));
        for length in 0..40 {
            assert_eq!(segment(&whole[..length], 80), None, "{length}");
        }
        assert_eq!(segment(&[], 80), None);
    }
}
