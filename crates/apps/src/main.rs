//! Demo and test workloads: the outside world of the demos and the services of the scenarios, one program.
//!
//! It knows nothing of the mesh: every role is an ordinary server or tool that would run the same without one.

mod books;
mod certificates;
mod collector;
mod flaky;
mod hello;
mod http;
mod httpbin;
mod judges;
mod load;
mod outside;
mod sniff;
mod tcp;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Demo and test workloads
#[derive(Debug, Parser)]
#[command(name = "osm-apps", version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The hosts that the demos reach outside the mesh: httpbin.org and openservicemesh.io on 80 and 443
    Outside(outside::Options),
    /// An HTTP server with the pages of httpbin: /get /headers /ip /status/N /anything /delay/N
    Httpbin(httpbin::Options),
    /// An HTTP server that fails or is slow by rule: /every/N/STATUS /first/N/STATUS /late/N/MS /seen/PATH
    Flaky(flaky::Options),
    /// Makes many HTTP requests and counts the answers
    Load(load::Options),
    /// A gRPC server: hello.HelloService and health
    Grpc(hello::ServerOptions),
    /// Calls a method of that server
    GrpcCall(hello::ClientOptions),
    /// An external authorizer for proxies (envoy.service.auth.v3)
    Authz(judges::AuthorizerOptions),
    /// A rate limit service for proxies (envoy.service.ratelimit.v3)
    Rls(judges::LimiterOptions),
    /// A TCP server that answers every line with `echo response: ` and the line
    TcpEcho(tcp::EchoOptions),
    /// A TCP server that speaks first
    Banner(tcp::BannerOptions),
    /// Buys books at the bookstore, again and again, and counts them
    Bookbuyer(books::buyer::Options),
    /// Does what the bookbuyer does, without being allowed to
    Bookthief(books::buyer::ThiefOptions),
    /// Sells books, and has each replaced by the bookwarehouse
    Bookstore(books::store::Options),
    /// Restocks the bookstore, and keeps the count in the database
    Bookwarehouse(books::warehouse::Options),
    /// The database of the bookwarehouse: speaks first, then answers lines
    Database(books::database::Options),
    /// A collector of spans by Zipkin's API; shows the last ones on /spans
    Zipkin(collector::Options),
    /// Watches the packets of a port on the network interfaces and says what is on the wire
    Sniff(sniff::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Fails only if a provider is already installed, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let outcome = match arguments.role {
        Role::Sniff(options) => sniff::run(&options),
        role => serve(role),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("osm-apps: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(role: Role) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let work = async {
            match role {
                Role::Outside(options) => outside::run(options).await,
                Role::Httpbin(options) => httpbin::run(options).await,
                Role::Flaky(options) => flaky::run(options).await,
                Role::Load(options) => load::run(options).await,
                Role::Grpc(options) => hello::serve(options).await,
                Role::GrpcCall(options) => hello::call(options).await,
                Role::Authz(options) => judges::authorize(options).await,
                Role::Rls(options) => judges::limit_rates(options).await,
                Role::TcpEcho(options) => tcp::echo(options).await,
                Role::Banner(options) => tcp::banner(options).await,
                Role::Bookbuyer(options) => books::buyer::buy(options).await,
                Role::Bookthief(options) => books::buyer::steal(options).await,
                Role::Bookstore(options) => books::store::run(options).await,
                Role::Bookwarehouse(options) => books::warehouse::run(options).await,
                Role::Database(options) => books::database::run(options).await,
                Role::Zipkin(options) => collector::run(options).await,
                Role::Sniff(_) => Ok(()),
            }
        };
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            outcome = work => outcome,
            _ = terminate.recv() => Ok(()),
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}
