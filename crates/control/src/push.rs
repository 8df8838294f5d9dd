//! From worlds to proxies: a new world is planned once for all streams, and only those that are to be told something
//! else than before are woken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{ServiceAccount, Workload};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use xds::planner::Planner;
use xds::resources::TrustBundle;
use xds::target::Target;

use crate::world::{World, Worlds};

/// Plans, and knows who is to be told.
pub(crate) struct Push {
    state: Mutex<State>,
    planned: watch::Sender<Option<Arc<World>>>,
    /// One joins at a time: a storm of proxies waits here and not in a thread each.
    pub(crate) gate: tokio::sync::Mutex<()>,
}

struct State {
    planner: Planner,
    world: Option<Arc<World>>,
    members: HashMap<u64, Member>,
    joined: u64,
}

struct Member {
    uuid: String,
    account: ServiceAccount,
    targets: watch::Sender<Option<Target>>,
}

/// A stream's share of the push; it leaves when dropped.
pub(crate) struct Membership {
    push: Arc<Push>,
    number: u64,
    /// What the proxy is to be told; `None` once its pod runs as somebody else.
    pub(crate) targets: watch::Receiver<Option<Target>>,
}

// === impl Push ===

impl Push {
    pub(crate) fn new(trust: TrustBundle) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                planner: Planner::new(trust),
                world: None,
                members: HashMap::new(),
                joined: 0,
            }),
            planned: watch::Sender::new(None),
            gate: tokio::sync::Mutex::new(()),
        })
    }

    /// The worlds that were planned.
    pub(crate) fn worlds(&self) -> watch::Receiver<Option<Arc<World>>> {
        self.planned.subscribe()
    }

    /// Plans each world that comes, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, mut worlds: Worlds, stop: CancellationToken) {
        loop {
            if let Some(world) = worlds.current() {
                let push = self.clone();
                // Takes long in a large mesh: not on a thread that serves proxies.
                let planned = tokio::task::spawn_blocking(move || push.plan(&world)).await;
                if let Err(error) = planned {
                    tracing::error!(%error, "planning");
                }
            }
            tokio::select! {
                () = worlds.changed() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn plan(&self, world: &Arc<World>) {
        let mut state = self.lock();
        let State {
            planner,
            world: known,
            members,
            ..
        } = &mut *state;
        planner.turn();
        *known = Some(world.clone());
        for member in members.values() {
            // A proxy whose pod left the mesh (its namespace was removed, or the pod is ending) keeps what it has.
            let Some(workload) = world.mesh.workload(&member.uuid) else {
                continue;
            };
            let target =
                (workload.account == member.account).then(|| planner.target(&world.mesh, workload));
            member.targets.send_if_modified(|known| {
                let same = match (&*known, &target) {
                    (Some(known), Some(target)) => known.is(target),
                    (None, None) => true,
                    _ => false,
                };
                *known = target;
                !same
            });
        }
        planner.forget();
        drop(state);
        self.planned.send_replace(Some(world.clone()));
    }

    /// A stream joins: what its proxy is to be told now, and whenever that changes. Plans, so not on a thread that
    /// serves proxies.
    pub(crate) fn join(self: &Arc<Self>, workload: &Workload) -> Membership {
        let mut state = self.lock();
        let State {
            planner,
            world,
            members,
            joined,
        } = &mut *state;
        let known = world.as_ref();
        let known =
            known.and_then(|world| Some((world, world.mesh.workload(&workload.proxy_uuid)?)));
        let known = known.filter(|(_, known)| known.account == workload.account);
        let target = known.map(|(world, workload)| planner.target(&world.mesh, workload));
        let (sender, targets) = watch::channel(target);
        *joined += 1;
        let member = Member {
            uuid: workload.proxy_uuid.to_string(),
            account: workload.account.clone(),
            targets: sender,
        };
        members.insert(*joined, member);
        Membership {
            push: self.clone(),
            number: *joined,
            targets,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.push.lock().members.remove(&self.number);
    }
}
