//! The first bytes of a connection, as the inspectors read them.

use proxy::inspect::{self, Verdict};

use crate::Target;

/// A ClientHello, whole and in two halves.
pub const CLIENT_HELLO: Target = Target {
    name: "client-hello",
    run: |data| {
        let whole = inspect::tls(data);
        if let Verdict::Is(hello) = &whole {
            let name = hello.server_name.as_deref().unwrap_or("a");
            assert_eq!(name, name.to_ascii_lowercase());
            assert!(!name.is_empty() && !name.ends_with('.'));
        }
        // A verdict does not change when more bytes come.
        match inspect::tls(&data[..data.len() / 2]) {
            Verdict::More => {}
            known => assert_eq!(known, whole),
        }
    },
    seeds: || {
        let extensions = [
            &[0, 0, 0, 10, 0, 8, 0, 0, 5][..],
            b"web.a",
            &[0, 16, 0, 6, 0, 4, 3],
            b"osm",
        ]
        .concat();
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(&extensions);
        let mut hello = vec![22, 3, 1];
        hello.extend((body.len() as u16 + 4).to_be_bytes());
        hello.extend([1, 0]);
        hello.extend((body.len() as u16).to_be_bytes());
        hello.extend(body);
        vec![hello]
    },
};

/// HTTP by its first line.
pub const FIRST_LINE: Target = Target {
    name: "first-line",
    run: |data| {
        let whole = inspect::http(data);
        match inspect::http(&data[..data.len() / 2]) {
            Verdict::More => {}
            known => assert_eq!(known, whole),
        }
        let _ = inspect::is_http2(data);
    },
    seeds: || {
        vec![
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        ]
    },
};
