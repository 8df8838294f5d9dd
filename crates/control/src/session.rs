//! One proxy's stream: compiled configuration in, responses out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ca::Identity;
use futures::StreamExt;
use model::Workload;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;
use xds::server::{Kind, Mode, Request, Response, Stream};
use xds::target::Target;

use crate::ads::{Incoming, Shared};
use crate::metrics::Metric;
use crate::nacks::{self, Pod};
use crate::push::Membership;
use crate::world::Worlds;

/// How long a proxy may take nothing from its stream before the stream ends.
const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// How long a proxy that is told much may keep others waiting: a few steps of a push.
const TURN: Duration = Duration::from_secs(2);

/// More resources than these are much.
const MUCH: usize = 64;

/// The session of one stream.
pub(crate) struct Session {
    shared: Arc<Shared>,
    membership: Membership,
    /// While the proxy is told much, and until when.
    turn: Option<(OwnedSemaphorePermit, Instant)>,
    identity: Identity,
    uuid: String,
    pod: Pod,
    stream: Stream,
    /// Kinds that the proxy refused and did not accept since.
    refused: BTreeSet<Kind>,
}

// === impl Session ===

impl Session {
    /// Finds the proxy's pod, waiting a little for the informers, and joins the push.
    pub(crate) async fn open(
        mode: Mode,
        shared: Arc<Shared>,
        identity: Identity,
        uuid: String,
    ) -> Result<Self, Status> {
        let mut worlds = Worlds::new(shared.push.worlds()).with_patience_of(&shared.worlds);
        let Some((_, workload)) = worlds.wait_for(|world| world.mesh.workload(&uuid)).await else {
            let message = format!(
                "no pod of the mesh has the label {}={uuid}",
                api::labels::PROXY_UUID
            );
            return Err(Status::permission_denied(message));
        };
        check_account(&workload, &identity)?;
        let pod = (workload.namespace.clone(), workload.name.clone());
        let push = shared.push.clone();
        let gate = shared.push.gate.lock().await;
        let joining = tokio::task::spawn_blocking(move || push.join(&workload));
        let mut membership = joining.await.map_err(|error| {
            tracing::error!(%error, "planning a configuration");
            Status::internal("the configuration could not be made")
        })?;
        drop(gate);
        let target = membership.targets.borrow_and_update().clone();
        let target = target.ok_or_else(|| Status::unavailable("the pod is changing"))?;
        let stream = Stream::new(mode, target);
        tracing::info!(uuid, %identity, ?mode, "proxy connected");
        Ok(Self {
            shared,
            membership,
            turn: None,
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
        if self.is_told_much() {
            self.take_turn().await?;
        }
        let mut responses = self.request(first)?;
        loop {
            for response in std::mem::take(&mut responses) {
                self.send(response, sender).await?;
            }
            let now = Instant::now();
            let ended = |until: &Instant| self.stream.is_settled() || now >= *until;
            self.turn.take_if(|(_, until)| ended(until));
            let turn = self.turn.as_ref().map(|(_, until)| *until);
            let deadline = self.stream.deadline().into_iter().chain(turn).min();
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
                changed = self.membership.targets.changed() => match changed {
                    Ok(()) => responses = self.refresh().await?,
                    Err(_) => return Err(Status::unavailable("the controller is ending")),
                },
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

    /// Starts to tell the proxy what is new.
    async fn refresh(&mut self) -> Result<Vec<Response>, Status> {
        let much = |target: &Target| target.of(Kind::Cluster).common().items().len() > MUCH;
        let new = self.membership.targets.borrow().as_ref().is_some_and(much);
        if new != self.is_told_much() && self.turn.is_none() {
            self.take_turn().await?;
        }
        let target = self.membership.targets.borrow_and_update().clone();
        let Some(target) = target else {
            let message = format!("the pod does not run as {} any more", self.identity);
            return Err(Status::permission_denied(message));
        };
        Ok(self.stream.update(target, Instant::now()))
    }

    /// Whether what the proxy is told is large.
    fn is_told_much(&self) -> bool {
        self.stream.resources(Kind::Cluster).common().items().len() > MUCH
    }

    /// Few proxies at a time are told much: each is done sooner, and what is on its way stays small.
    async fn take_turn(&mut self) -> Result<(), Status> {
        let ending = |_| Status::unavailable("the controller is ending");
        let turns = self.shared.turns.clone();
        let permit = tokio::select! {
            permit = turns.acquire_owned() => permit.map_err(ending)?,
            () = self.shared.stop.cancelled() => return Err(Status::unavailable("the controller is ending")),
        };
        self.turn = Some((permit, Instant::now() + TURN));
        Ok(())
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

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
