//! Applications and sidecars that go away under load.

use std::time::Duration;

use anyhow::ensure;

use super::application::Application;
use super::load::Load;
use crate::Outcome;
use crate::stage::{LOCAL, Protocol, Service, Stage};

pub async fn churn(seconds: u64) -> anyhow::Result<Outcome> {
    let applications = [
        Application::start("a").await,
        Application::start("b").await,
        Application::start("c").await,
    ];
    let mut stage = Stage::start(vec![Service::new(
        "web",
        Protocol::Http1,
        applications[0].address,
    )])
    .await?;
    let load = Load::start(stage.service("web")?.front(), 8);
    let mut pushes = 0usize;
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    while load.elapsed() < Duration::from_secs(seconds) {
        beat.tick().await;
        pushes += 1;
        // One, two or three of them, another set each time; all of them live on.
        let of = |index: usize| applications[(pushes + index) % 3].address;
        stage.services[0].applications = (0..=pushes % 3).map(of).collect();
        stage.set(LOCAL, "");
    }
    let tally = load.stop().await;
    tally.judge(0)?;
    Ok(Outcome::Good(format!("{pushes} changes; {}", tally.told())))
}

pub async fn restarts(seconds: u64) -> anyhow::Result<Outcome> {
    let mut application = Application::start("a").await;
    let address = application.address;
    let stage = Stage::start(vec![Service::new("web", Protocol::Http1, address)]).await?;
    let load = Load::start(stage.service("web")?.front(), 8);
    let mut kills = 0;
    while load.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_millis(700)).await;
        drop(application);
        kills += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
        application = Application::start_at("a", address).await;
    }
    // It stands again: from now on nothing may fail.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = load.tally();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tally = load.stop().await;
    tally.judge(u64::MAX)?;
    ensure!(
        tally.failures() == before.failures(),
        "fails although the application stands: {}",
        tally.told()
    );
    // While it is down (100 ms of 800) eight clients fail every few milliseconds; no other failure is explained.
    let unexplained = tally
        .failed
        .keys()
        .find(|reason| !reason.starts_with("503 "));
    ensure!(unexplained.is_none(), "{}", tally.told());
    Ok(Outcome::Good(format!(
        "{kills} kills, down for 100 ms each; {}",
        tally.told()
    )))
}

pub async fn stopped() -> anyhow::Result<Outcome> {
    let application = Application::start("a").await;
    let stage = Stage::start(vec![Service::new(
        "web",
        Protocol::Http1,
        application.address,
    )])
    .await?;
    let load = Load::start(stage.service("web")?.front(), 8);
    let pid = stage.server.id().to_string();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        super::connections::signal("-STOP", &pid).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        super::connections::signal("-CONT", &pid).await?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tally = load.stop().await;
    // Nothing is lost: what waited is answered.
    tally.judge(0)?;
    Ok(Outcome::Good(format!(
        "the server's sidecar stood still three times for 2 s; {}",
        tally.told()
    )))
}
