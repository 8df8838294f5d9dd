//! Configuration that changes under load, and a control plane that goes away.

use std::time::Duration;

use anyhow::ensure;

use super::application::Application;
use super::load::Load;
use crate::Outcome;
use crate::stage::{LOCAL, Protocol, Service, Stage};

/// A cluster, its routes and a listener that nobody uses, another one each time.
fn unrelated(number: u64) -> String {
    let clusters: String = (0..5)
        .map(|index| {
            let name = format!("other-{}", number * 3 + index);
            format!("- {{name: {name}, type: STATIC, connect_timeout: {}s, load_assignment: {{cluster_name: {name}}}}}\n", 1 + number % 5)
        })
        .collect();
    let port = testkit::ports::free();
    format!(
        r#"
clusters:
{clusters}
listeners:
- name: other-{}
  address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
  filter_chains:
  - filters:
    - name: tcp
      typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: other-{}}}
"#,
        number % 7,
        number * 3
    )
}

pub async fn under_load(seconds: u64) -> anyhow::Result<Outcome> {
    let application = Application::start("a").await;
    let stage = Stage::start(vec![Service::new(
        "web",
        Protocol::Http1,
        application.address,
    )])
    .await?;
    let load = Load::start(stage.service("web")?.front(), 8);
    let mut pushes = 0u64;
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    // Three times as long as the others: what leaks a little with each push must show.
    while load.elapsed() < Duration::from_secs(3 * seconds) {
        beat.tick().await;
        stage.set(LOCAL, &unrelated(pushes));
        pushes += 1;
    }
    let tally = load.stop().await;
    let settled = stage.ads.settled("client").await;
    ensure!(settled.is_ok(), "the last push: {settled:?}");
    tally.judge(0)?;
    Ok(Outcome::Good(format!("{pushes} pushes; {}", tally.told())))
}

pub async fn without_control_plane(seconds: u64) -> anyhow::Result<Outcome> {
    let application = Application::start("a").await;
    let mut stage = Stage::start(vec![Service::new(
        "web",
        Protocol::Http1,
        application.address,
    )])
    .await?;
    let front = stage.service("web")?.front();
    let load = Load::start(front, 8);
    let half = Duration::from_secs(seconds) / 2;
    stage.gate.shut();
    // It has other things to say when it comes back.
    stage.set(LOCAL, &unrelated(1));
    tokio::time::sleep(half).await;
    let during = load.tally();
    stage.gate.open().await;
    for node in ["client", "server"] {
        let settled = stage.ads.settled(node).await;
        ensure!(settled.is_ok(), "{node}: {settled:?}");
    }
    let tally = load.stop().await;
    during.judge(0)?;
    tally.judge(0)?;
    Ok(Outcome::Good(format!(
        "{} s without it, then a new push; {}",
        half.as_secs(),
        tally.told()
    )))
}
