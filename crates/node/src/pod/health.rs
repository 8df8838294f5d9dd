//! Probes and life-cycle hooks of a running container.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::task::{Instance, PodTask};
use crate::container::{Ended, KillOnDrop, process};
use crate::probe::{Schedule, Tally, http_get, tcp_connect};

/// How much output of a probe's command is shown.
const OUTPUT_SHOWN: u64 = 10 * 1024;

impl PodTask {
    /// Probes a container until it must be started again; returns why. Never returns while it is healthy.
    pub(super) async fn watch_health(&self, container: &Container, instance: &Instance) -> String {
        if let Some(probe) = &container.startup_probe
            && let Some(reason) = self
                .probe_until(container, instance, probe, "Startup", true)
                .await
        {
            return reason;
        }
        self.record(&container.name, |record| {
            record.started = true;
            // Without a readiness probe a container is ready once it has started.
            record.ready = record.ready || container.readiness_probe.is_none();
        });
        let readiness = async {
            match &container.readiness_probe {
                Some(probe) => self.watch_readiness(container, instance, probe).await,
                None => std::future::pending().await,
            }
        };
        let liveness = async {
            match &container.liveness_probe {
                Some(probe) => {
                    self.probe_until(container, instance, probe, "Liveness", false)
                        .await
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = readiness => String::new(),
            reason = liveness => reason.unwrap_or_default(),
        }
    }

    /// Runs a probe until it fails for good (its reason), or, with `once`, until it has succeeded (`None`).
    async fn probe_until(
        &self,
        container: &Container,
        instance: &Instance,
        probe: &Probe,
        kind: &str,
        once: bool,
    ) -> Option<String> {
        let schedule = Schedule::from(probe);
        tokio::time::sleep(schedule.delay).await;
        let mut tally = Tally::default();
        loop {
            let answer = self
                .probe(container, instance, probe, schedule.timeout)
                .await;
            if let Err(error) = &answer {
                self.shared.events.warning(
                    &self.pod(),
                    "Unhealthy",
                    format!("{kind} probe failed: {error}"),
                );
            }
            match tally.count(answer.is_ok(), &schedule) {
                Some(true) if once => return None,
                Some(false) => {
                    return Some(format!(
                        "Container {} failed {} probe, will be restarted",
                        container.name,
                        kind.to_lowercase()
                    ));
                }
                _ => tokio::time::sleep(schedule.period).await,
            }
        }
    }

    async fn watch_readiness(&self, container: &Container, instance: &Instance, probe: &Probe) {
        let schedule = Schedule::from(probe);
        tokio::time::sleep(schedule.delay).await;
        let mut tally = Tally::default();
        let mut ready = false;
        loop {
            let answer = self
                .probe(container, instance, probe, schedule.timeout)
                .await;
            if let Err(error) = &answer {
                self.shared.events.warning(
                    &self.pod(),
                    "Unhealthy",
                    format!("Readiness probe failed: {error}"),
                );
            }
            if let Some(verdict) = tally
                .count(answer.is_ok(), &schedule)
                .filter(|v| *v != ready)
            {
                ready = verdict;
                self.record(&container.name, |record| record.ready = verdict);
            }
            // Unlike a kubelet, which keeps to the period: what is not ready yet is asked each second, so that a
            // roll-out does not wait for the next period. A second is the least period there is.
            let pause = if ready {
                schedule.period
            } else {
                schedule.period.min(Duration::from_secs(1))
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One attempt.
    async fn probe(
        &self,
        container: &Container,
        instance: &Instance,
        probe: &Probe,
        timeout: Duration,
    ) -> Result<(), String> {
        let ip = self.probe_address();
        if let Some(action) = &probe.http_get {
            return http_get(action, container, ip, timeout).await;
        }
        if let Some(action) = &probe.tcp_socket {
            return tcp_connect(action.host.as_deref(), &action.port, container, ip, timeout).await;
        }
        if let Some(action) = &probe.exec {
            let command = action.command.clone().unwrap_or_default();
            return match self.run_in(instance, command.clone(), timeout).await {
                Ok((Ended { code: 0, .. }, _)) => Ok(()),
                Ok((_, output)) => Err(output),
                Err(error) => Err(format!("command {command:?}: {error}")),
            };
        }
        Err("this node knows httpGet, tcpSocket and exec probes".to_owned())
    }

    fn probe_address(&self) -> IpAddr {
        self.progress
            .lock()
            .ips
            .first()
            .copied()
            .unwrap_or(Ipv4Addr::LOCALHOST.into())
    }

    /// Runs a life-cycle hook.
    pub(super) async fn hook(
        &self,
        container: &Container,
        instance: &Instance,
        hook: &LifecycleHandler,
        limit: Duration,
    ) -> Result<(), String> {
        if let Some(action) = &hook.exec {
            let command = action.command.clone().unwrap_or_default();
            return match self.run_in(instance, command, limit).await {
                Ok((Ended { code: 0, .. }, _)) => Ok(()),
                Ok((ended, output)) => Err(format!("command exited with {}: {output}", ended.code)),
                Err(error) => Err(error),
            };
        }
        if let Some(action) = &hook.http_get {
            return http_get(action, container, self.probe_address(), limit).await;
        }
        if let Some(action) = &hook.sleep {
            tokio::time::sleep(
                Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0)).min(limit),
            )
            .await;
        }
        Ok(())
    }

    /// Runs a command in a container and collects the beginning of its output.
    async fn run_in(
        &self,
        instance: &Instance,
        command: Vec<String>,
        limit: Duration,
    ) -> Result<(Ended, String), String> {
        let run = async {
            let (process, streams) = process::exec(
                &instance.process,
                instance.rights.clone(),
                command,
                instance.env.clone(),
                false,
            )
            .await?;
            let mut guard = KillOnDrop(Some(process.clone()));
            drop(streams.stdin);
            let read = |pipe: Option<std::os::fd::OwnedFd>| async {
                let mut text = Vec::new();
                if let Some(pipe) = pipe {
                    let _ = pipe::Receiver::from_owned_fd(pipe)?
                        .take(OUTPUT_SHOWN)
                        .read_to_end(&mut text)
                        .await;
                }
                std::io::Result::Ok(String::from_utf8_lossy(&text).into_owned())
            };
            let (out, err, ended) =
                tokio::join!(read(streams.stdout), read(streams.stderr), process.wait());
            guard.0 = None;
            std::io::Result::Ok((ended, out? + &err?))
        };
        match tokio::time::timeout(limit, run).await {
            Ok(result) => result.map_err(|e| e.to_string()),
            Err(_) => Err(format!("command timed out after {limit:?}")),
        }
    }

    /// Stops a container: preStop hook, SIGTERM, and SIGKILL at the end of the grace period.
    pub(super) async fn stop(
        &self,
        container: &Container,
        instance: &Instance,
        grace: Duration,
    ) -> Ended {
        self.shared.events.normal(
            &self.pod(),
            "Killing",
            format!("Stopping container {}", container.name),
        );
        let begun = tokio::time::Instant::now();
        if let Some(hook) = container
            .lifecycle
            .as_ref()
            .and_then(|l| l.pre_stop.as_ref())
        {
            let hook = self.hook(container, instance, hook, grace);
            let result = tokio::select! {
                result = hook => result,
                _ = instance.process.wait() => Ok(()),
            };
            if let Err(error) = result {
                self.shared.events.warning(
                    &self.pod(),
                    "FailedPreStopHook",
                    format!("PreStopHook failed: {error}"),
                );
            }
        }
        instance.process.signal(Signal::SIGTERM);
        // A kubelet grants two seconds after the hook even if it has used the whole period up.
        let left = grace
            .saturating_sub(begun.elapsed())
            .max(if grace.is_zero() {
                Duration::ZERO
            } else {
                Duration::from_secs(2)
            });
        if let Ok(ended) = tokio::time::timeout(left, instance.process.wait()).await {
            return ended;
        }
        instance.process.signal(Signal::SIGKILL);
        instance.process.wait().await
    }
}
