//! HAProxy and nginx: the floor, not the equal. Their configurations are files; they know no SPIFFE name, so they check
//! the server's DNS name instead.

use std::fmt::Write as _;

use crate::backend::Ports;
use crate::certificates::Files;
use crate::mesh::Place;

/// HAProxy's outbound configuration.
pub fn haproxy_outbound(place: &Place, files: &Files) -> String {
    let Ports {
        http1,
        http2,
        echo,
        bulk,
    } = place.ports;
    let (from, to) = (place.outbound, place.inbound);
    let tls = format!(
        "ssl crt {} ca-file {} verify required sni str({}) force-tlsv13 no-ssl-reuse",
        files.client.display(),
        files.root.display(),
        files.server_name
    );
    let mut text = haproxy_head();
    haproxy_section(
        &mut text,
        "http1",
        "http",
        &format!("{from}:{http1}"),
        &format!("{to}:{http1} {tls} alpn http/1.1"),
    );
    haproxy_section(
        &mut text,
        "http2",
        "http",
        &format!("{from}:{http2}"),
        &format!("{to}:{http2} {tls} alpn h2"),
    );
    haproxy_section(
        &mut text,
        "echo",
        "tcp",
        &format!("{from}:{echo}"),
        &format!("{to}:{echo} {tls}"),
    );
    haproxy_section(
        &mut text,
        "bulk",
        "tcp",
        &format!("{from}:{bulk}"),
        &format!("{to}:{bulk} {tls}"),
    );
    text
}

/// HAProxy's inbound configuration.
pub fn haproxy_inbound(place: &Place, files: &Files) -> String {
    let Ports {
        http1,
        http2,
        echo,
        bulk,
    } = place.ports;
    let at = place.inbound;
    let tls = format!(
        "ssl crt {} ca-file {} verify required ssl-min-ver TLSv1.3 no-tls-tickets",
        files.server.display(),
        files.root.display()
    );
    let mut text = haproxy_head();
    haproxy_section(
        &mut text,
        "http1",
        "http",
        &format!("{at}:{http1} {tls} alpn http/1.1"),
        &format!("127.0.0.1:{http1}"),
    );
    haproxy_section(
        &mut text,
        "http2",
        "http",
        &format!("{at}:{http2} {tls} alpn h2"),
        &format!("127.0.0.1:{http2} proto h2"),
    );
    haproxy_section(
        &mut text,
        "echo",
        "tcp",
        &format!("{at}:{echo} {tls}"),
        &format!("127.0.0.1:{echo}"),
    );
    haproxy_section(
        &mut text,
        "bulk",
        "tcp",
        &format!("{at}:{bulk} {tls}"),
        &format!("127.0.0.1:{bulk}"),
    );
    text
}

fn haproxy_head() -> String {
    "global\n  nbthread 1\n  maxconn 8000\n  tune.ssl.cachesize 0\n\ndefaults\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  http-reuse always\n"
        .to_owned()
}

fn haproxy_section(text: &mut String, name: &str, mode: &str, bind: &str, server: &str) {
    let options = if mode == "http" {
        "  option forwardfor\n  unique-id-format %{+X}o%ci%cp%ts%rt\n  unique-id-header x-request-id\n"
    } else {
        ""
    };
    // Writing into a String does not fail.
    let _ = write!(
        text,
        "\nlisten {name}\n  mode {mode}\n{options}  bind {bind}\n  server only {server}\n"
    );
}

/// nginx's outbound configuration; it speaks HTTP/2 to an upstream only as gRPC.
pub fn nginx_outbound(place: &Place, files: &Files) -> String {
    let Ports {
        http1,
        http2,
        echo,
        bulk,
    } = place.ports;
    let (from, to) = (place.outbound, place.inbound);
    let tls = |kind: &str| {
        format!(
            "{kind}_ssl_certificate {client}; {kind}_ssl_certificate_key {client}; {kind}_ssl_trusted_certificate {root}; \
             {kind}_ssl_verify on; {kind}_ssl_name {name}; {kind}_ssl_server_name on; {kind}_ssl_session_reuse off; {kind}_ssl_protocols TLSv1.3;",
            client = files.client.display(),
            root = files.root.display(),
            name = files.server_name
        )
    };
    let http = format!(
        "  upstream one {{ server {to}:{http1}; keepalive 64; }}\n  upstream two {{ server {to}:{http2}; keepalive 64; }}\n\
         \x20 server {{ listen {from}:{http1}; keepalive_requests 1000000000; location / {{ proxy_pass https://one; {HTTP1} {} }} }}\n\
         \x20 server {{ listen {from}:{http2} http2; keepalive_requests 1000000000; location / {{ grpc_pass grpcs://two; {} }} }}\n",
        tls("proxy"),
        tls("grpc")
    );
    let stream = [echo, bulk]
        .map(|port| {
            format!(
                "  server {{ listen {from}:{port}; proxy_pass {to}:{port}; proxy_ssl on; {} }}\n",
                tls("proxy")
            )
        })
        .concat();
    nginx(&http, &stream)
}

/// nginx's inbound configuration.
pub fn nginx_inbound(place: &Place, files: &Files) -> String {
    let Ports {
        http1,
        http2,
        echo,
        bulk,
    } = place.ports;
    let at = place.inbound;
    let tls = format!(
        "ssl_certificate {server}; ssl_certificate_key {server}; ssl_client_certificate {root}; ssl_verify_client on; \
         ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;",
        server = files.server.display(),
        root = files.root.display()
    );
    let http = format!(
        "  upstream one {{ server 127.0.0.1:{http1}; keepalive 64; keepalive_requests 1000000000; }}\n  upstream two {{ server 127.0.0.1:{http2}; keepalive 64; keepalive_requests 1000000000; }}\n\
         \x20 server {{ listen {at}:{http1} ssl; keepalive_requests 1000000000; {tls} location / {{ proxy_pass http://one; {HTTP1} }} }}\n\
         \x20 server {{ listen {at}:{http2} ssl http2; keepalive_requests 1000000000; {tls} location / {{ grpc_pass grpc://two; }} }}\n"
    );
    let stream = [echo, bulk]
        .map(|port| {
            format!("  server {{ listen {at}:{port} ssl; {tls} proxy_pass 127.0.0.1:{port}; }}\n")
        })
        .concat();
    nginx(&http, &stream)
}

/// Kept upstream connections, and the request's own host.
const HTTP1: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host; \
                     proxy_set_header X-Request-Id $request_id; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";

fn nginx(http: &str, stream: &str) -> String {
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nworker_processes 1;\nerror_log stderr crit;\ndaemon off;\n\
         events {{ worker_connections 16000; }}\n\
         http {{\n  access_log off;\n  tcp_nodelay on;\n  keepalive_timeout 3600s;\n{http}}}\n\
         stream {{\n  tcp_nodelay on;\n{stream}}}\n"
    )
}
