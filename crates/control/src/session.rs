//! One proxy's stream: compiled configuration in, responses out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ca::Identity;
use futures::StreamExt;
use model::Workload;
use tokio::sync::mpsc;
use tonic::Status;
use xds::resources::Snapshot;
use xds::server::{Kind, Mode, Request, Response, Stream};

use crate::ads::{Incoming, Shared};
use crate::metrics::Metric;
use crate::nacks::{self, Pod};
use crate::world::{World, Worlds};

/// How long a proxy may take nothing from its stream before the stream ends.
const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// The session of one stream.
pub(crate) struct Session {
    shared: Arc<Shared>,
    worlds: Worlds,
    identity: Identity,
    uuid: String,
    pod: Pod,
    stream: Stream,
    /// Kinds that the proxy refused and did not accept since.
    refused: BTreeSet<Kind>,
}

// === impl Session ===

impl Session {
    /// Finds the proxy's pod, waiting a little for the informers, and compiles its configuration.
    pub(crate) async fn open(
        mode: Mode,
        shared: Arc<Shared>,
        identity: Identity,
        uuid: String,
    ) -> Result<Self, Status> {
        let mut worlds = shared.worlds.clone();
        let Some((world, workload)) = worlds.wait_for(|world| world.mesh.workload(&uuid)).await
        else {
            let message = format!(
                "no pod of the mesh has the label {}={uuid}",
                api::labels::PROXY_UUID
            );
            return Err(Status::permission_denied(message));
        };
        check_account(&workload, &identity)?;
        let pod = (workload.namespace.clone(), workload.name.clone());
        let snapshot = compile(&shared, world, workload).await?;
        let stream = Stream::new(mode, snapshot);
        tracing::info!(uuid, %identity, ?mode, "proxy connected");
        Ok(Self {
            shared,
            worlds,
            identity,
            uuid,
            pod,
            stream,
            refused: BTreeSet::new(),
        })
    }

    /// Serves the stream until the proxy leaves, misbehaves or the program ends.
    pub(crate) async fn run<M>(
        mut self,
        first: Request,
        mut incoming: Incoming,
        sender: &mpsc::Sender<Result<M, Status>>,
    ) -> Result<(), Status>
    where
        M: From<Response> + Send + 'static,
    {
        let stop = self.shared.stop.clone();
        let mut responses = self.request(first)?;
        loop {
            for response in std::mem::take(&mut responses) {
                self.send(response, sender).await?;
            }
            let deadline = self.stream.deadline();
            // Every branch is cancel safe: a lost wait loses nothing, and no request is taken twice.
            tokio::select! {
                message = incoming.next() => match message {
                    Some(Ok((_, request))) => responses = self.request(request)?,
                    // Closed, or the connection broke: either way the proxy is gone.
                    None | Some(Err(_)) => {
                        tracing::info!(uuid = self.uuid, "proxy disconnected");
                        return Ok(());
                    }
                },
                () = self.worlds.changed() => responses = self.refresh().await?,
                () = sleep_until(deadline) => responses = self.stream.tick(Instant::now()),
                () = sender.closed() => return Ok(()),
                () = stop.cancelled() => return Err(Status::unavailable("the controller is ending")),
            }
        }
    }

    fn request(&mut self, request: Request) -> Result<Vec<Response>, Status> {
        if let Some(kind) = Kind::of(&request.type_url) {
            self.count(Metric::Requests, kind);
        }
        let outcome = self
            .stream
            .request(request, Instant::now())
            .map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
        if let Some(nack) = outcome.nack {
            let (uuid, kind) = (&self.uuid, nack.kind.short());
            tracing::error!(uuid, identity = %self.identity, kind, reason = nack.message, "proxy refused its configuration");
            self.count(Metric::Refusals, nack.kind);
            let subjects = nacks::subjects(
                &nack.message,
                self.stream.resources(nack.kind),
                &self.shared.mesh_config,
            );
            let nacks = &self.shared.nacks;
            nacks.refused(uuid, &self.pod, nack.kind, &nack.message, subjects);
            self.refused.insert(nack.kind);
        }
        if let Some(kind) = outcome.ack.filter(|kind| self.refused.remove(kind)) {
            tracing::info!(
                uuid = self.uuid,
                kind = kind.short(),
                "proxy accepts its configuration again"
            );
            self.shared.nacks.accepted(&self.uuid, kind);
        }
        Ok(outcome.responses)
    }

    /// Compiles against the newest world. A proxy whose pod left the mesh (its namespace was
    /// removed, or the pod is ending) keeps what it has.
    async fn refresh(&mut self) -> Result<Vec<Response>, Status> {
        let Some(world) = self.worlds.current() else {
            return Ok(Vec::new());
        };
        let Some(workload) = world.mesh.workload(&self.uuid).cloned() else {
            return Ok(Vec::new());
        };
        check_account(&workload, &self.identity)?;
        let snapshot = compile(&self.shared, world, workload).await?;
        Ok(self.stream.update(snapshot, Instant::now()))
    }

    async fn send<M>(
        &self,
        response: Response,
        sender: &mpsc::Sender<Result<M, Status>>,
    ) -> Result<(), Status>
    where
        M: From<Response>,
    {
        let kind = response.kind;
        tracing::debug!(
            uuid = self.uuid,
            kind = kind.short(),
            resources = response.resources.len(),
            removed = response.removed.len(),
            "sending"
        );
        match tokio::time::timeout(SEND_DEADLINE, sender.send(Ok(M::from(response)))).await {
            Ok(Ok(())) => {
                self.count(Metric::ResponsesSent, kind);
                Ok(())
            }
            // The proxy is gone; the next wait ends the session.
            Ok(Err(_)) => {
                self.count(Metric::ResponsesFailed, kind);
                Ok(())
            }
            Err(_) => {
                self.count(Metric::ResponsesFailed, kind);
                Err(Status::deadline_exceeded(format!(
                    "the proxy read nothing for {SEND_DEADLINE:?}"
                )))
            }
        }
    }

    fn count(&self, metric: Metric, kind: Kind) {
        let identity = format!(
            "{}.{}",
            self.identity.service_account, self.identity.namespace
        );
        let type_name = kind.short().to_ascii_uppercase();
        self.shared
            .metrics
            .add(metric, &[&self.uuid, &identity, &type_name], 1);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.metrics.forget(&self.uuid);
        if !self.refused.is_empty() {
            self.shared.nacks.forget(&self.uuid);
        }
    }
}

/// The pod with the proxy's label must run as the certificate's ServiceAccount.
fn check_account(workload: &Workload, identity: &Identity) -> Result<(), Status> {
    let account = &workload.account;
    if *account.namespace == *identity.namespace && *account.name == *identity.service_account {
        return Ok(());
    }
    let pod = format!("{}/{}", workload.namespace, workload.name);
    Err(Status::permission_denied(format!(
        "pod {pod} does not run as {identity}"
    )))
}

/// Compiles off the threads that serve streams, a few at a time.
async fn compile(
    shared: &Shared,
    world: Arc<World>,
    workload: Workload,
) -> Result<Arc<Snapshot>, Status> {
    let _slot = shared
        .compilers
        .acquire()
        .await
        .map_err(|_| Status::unavailable("ending"))?;
    let trust = shared.trust.clone();
    tokio::task::spawn_blocking(move || {
        Arc::new(xds::resources::snapshot(
            &world.mesh.compile(&workload),
            &trust,
        ))
    })
    .await
    .map_err(|error| {
        tracing::error!(%error, "compiling a configuration");
        Status::internal("the configuration could not be compiled")
    })
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
