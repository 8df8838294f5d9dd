//! Objects and the global revision: all in memory for reading, one redb file for keeping.
//!
//! One writer thread owns the database. It takes the changes that are queued, checks each against the present state
//! (optimistic concurrency), commits them together with the new revision in one transaction, and only then lets readers,
//! watchers and the callers see them. So what was answered is on disk, and a `kill -9` loses nothing that was answered.

mod key;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

pub use self::key::Key;
use crate::StartError;

const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Events kept per resource: a watcher that sleeps through more of them gets 410 and lists anew.
const RING: usize = 2048;
/// Changes waiting for the writer; more are refused with 503.
const QUEUE: usize = 1024;
/// Changes in one transaction.
const BATCH: usize = 128;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It is different.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change, as watchers see it.
#[derive(Debug)]
pub struct Event {
    /// Global revision of the change.
    pub revision: u64,
    /// What happened.
    pub change: Change,
    /// To which object.
    pub key: Key,
    /// The object afterwards; its last state if deleted.
    pub object: Arc<Value>,
    /// The object before, for selectors that it may have left.
    pub previous: Option<Arc<Value>>,
}

/// What a writer believes about the present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such object.
    Absent,
    /// The object is at this revision.
    Revision(u64),
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// `Expect::Absent`, but it is there.
    #[error("the object exists")]
    Exists,
    /// `Expect::Revision`, but it is at another one.
    #[error("the object has been modified")]
    Modified,
    /// `Expect::Revision`, but it is gone.
    #[error("the object is gone")]
    Gone,
    /// The queue is full or the writer has ended.
    #[error("the store is not accepting changes")]
    Busy,
    /// The database refused.
    #[error("store: {0}")]
    Database(String),
}

struct Entry {
    revision: u64,
    object: Arc<Value>,
}

struct Ring {
    /// Changes up to this revision may be missing from the ring.
    floor: u64,
    events: VecDeque<Arc<Event>>,
}

struct State {
    revision: u64,
    /// Revision at start: the rings know nothing older.
    opened: u64,
    objects: BTreeMap<Key, Entry>,
    rings: HashMap<Arc<str>, Ring>,
}

struct Job {
    key: Key,
    expect: Expect,
    /// `None` deletes.
    object: Option<Value>,
    reply: oneshot::Sender<Result<Arc<Value>, WriteError>>,
}

/// The store.
pub struct Store {
    state: Arc<RwLock<State>>,
    changed: watch::Receiver<u64>,
    jobs: Mutex<Option<SyncSender<Job>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Store {
    /// Opens or makes the database file and loads it.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let fail = |reason: String| StartError::Store {
            path: path.to_owned(),
            reason,
        };
        let database = Database::create(path).map_err(|e| fail(e.to_string()))?;
        let state = load(&database).map_err(|e| fail(e.to_string()))?;
        let (notify, changed) = watch::channel(state.revision);
        let state = Arc::new(RwLock::new(state));
        let (jobs, queue) = sync_channel(QUEUE);
        let shared = state.clone();
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                Writer {
                    database,
                    state: shared,
                    notify,
                }
                .run(&queue)
            })
            .map_err(|e| fail(e.to_string()))?;
        Ok(Self {
            state,
            changed,
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// The present revision.
    pub fn revision(&self) -> u64 {
        self.state.read().revision
    }

    /// Wakes at each new revision.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// One object and its revision.
    pub fn get(&self, key: &Key) -> Option<(Arc<Value>, u64)> {
        self.state
            .read()
            .objects
            .get(key)
            .map(|e| (e.object.clone(), e.revision))
    }

    /// All objects of a resource, in one namespace or in all, sorted by namespace and name; and the revision of this view.
    pub fn list(&self, resource: &Arc<str>, namespace: Option<&str>) -> (Vec<Arc<Value>>, u64) {
        let state = self.state.read();
        let from = Key::new(resource, namespace.unwrap_or_default(), "");
        let objects = state
            .objects
            .range(from..)
            .take_while(|(k, _)| {
                k.resource == *resource
                    && namespace.is_none_or(|n| n.is_empty() || k.namespace == n)
            })
            .map(|(_, e)| e.object.clone())
            .collect();
        (objects, state.revision)
    }

    /// Changes of a resource after a revision and the revision up to which that is complete, or the oldest revision that
    /// could be asked for.
    pub fn events(&self, resource: &Arc<str>, after: u64) -> Result<(Vec<Arc<Event>>, u64), u64> {
        let state = self.state.read();
        let Some(ring) = state.rings.get(resource) else {
            return if after < state.opened {
                Err(state.opened)
            } else {
                Ok((Vec::new(), state.revision))
            };
        };
        if after < ring.floor {
            return Err(ring.floor);
        }
        let start = ring.events.partition_point(|e| e.revision <= after);
        Ok((
            ring.events.range(start..).cloned().collect(),
            state.revision,
        ))
    }

    /// Makes or replaces an object; returns it as stored.
    pub async fn put(
        &self,
        key: Key,
        expect: Expect,
        object: Value,
    ) -> Result<Arc<Value>, WriteError> {
        self.submit(key, expect, Some(object)).await
    }

    /// Removes an object; returns its last state.
    pub async fn delete(&self, key: Key, revision: u64) -> Result<Arc<Value>, WriteError> {
        self.submit(key, Expect::Revision(revision), None).await
    }

    async fn submit(
        &self,
        key: Key,
        expect: Expect,
        object: Option<Value>,
    ) -> Result<Arc<Value>, WriteError> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            key,
            expect,
            object,
            reply,
        };
        {
            let jobs = self.jobs.lock();
            let Some(jobs) = jobs.as_ref() else {
                return Err(WriteError::Busy);
            };
            match jobs.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    return Err(WriteError::Busy);
                }
            }
        }
        answer.await.unwrap_or(Err(WriteError::Busy))
    }

    /// Ends the writer after the queued changes and closes the file.
    pub fn close(&self) {
        drop(self.jobs.lock().take());
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
    }
}

fn load(database: &Database) -> Result<State, redb::Error> {
    let write = database.begin_write()?;
    write.open_table(OBJECTS)?;
    write.open_table(META)?;
    write.commit()?;
    let read = database.begin_read()?;
    // 1 so that no object ever has resourceVersion 0, which means "any" to clients.
    let revision = read
        .open_table(META)?
        .get("revision")?
        .map_or(1, |v| v.value());
    let mut objects = BTreeMap::new();
    for row in read.open_table(OBJECTS)?.iter()? {
        let (key, value) = row?;
        let (Some(key), Ok(object)) = (
            Key::decode(key.value()),
            serde_json::from_slice::<Value>(value.value()),
        ) else {
            tracing::warn!(key = key.value(), "unreadable object in the store, skipped");
            continue;
        };
        objects.insert(
            key,
            Entry {
                revision: revision_of(&object),
                object: Arc::new(object),
            },
        );
    }
    Ok(State {
        revision,
        opened: revision,
        objects,
        rings: HashMap::new(),
    })
}

/// `metadata.resourceVersion` as a number; 0 if there is none.
pub fn revision_of(object: &Value) -> u64 {
    object
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

fn stamp(object: &mut Value, revision: u64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert(
            "resourceVersion".to_owned(),
            Value::String(revision.to_string()),
        );
    }
}

// === the writer thread ===

struct Writer {
    database: Database,
    state: Arc<RwLock<State>>,
    notify: watch::Sender<u64>,
}

type Reply = oneshot::Sender<Result<Arc<Value>, WriteError>>;

impl Writer {
    fn run(self, queue: &Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut jobs = vec![first];
            while jobs.len() < BATCH {
                let Ok(job) = queue.try_recv() else { break };
                jobs.push(job);
            }
            self.batch(jobs);
        }
    }

    fn batch(&self, jobs: Vec<Job>) {
        let mut revision = self.state.read().revision;
        let mut accepted: Vec<(Event, Reply)> = Vec::new();
        let mut pending: HashMap<Key, Option<(Arc<Value>, u64)>> = HashMap::new();
        for job in jobs {
            match self.check(&job, &pending) {
                Err(e) => drop(job.reply.send(Err(e))),
                Ok(previous) => {
                    revision += 1;
                    let (event, reply) = accept(job, previous, revision);
                    let after =
                        (event.change != Change::Deleted).then(|| (event.object.clone(), revision));
                    pending.insert(event.key.clone(), after);
                    accepted.push((event, reply));
                }
            }
        }
        if accepted.is_empty() {
            return;
        }
        if let Err(e) = self.commit(&accepted, revision) {
            tracing::error!(error = %e, "the store refused a transaction");
            for (_, reply) in accepted {
                let _ = reply.send(Err(WriteError::Database(e.to_string())));
            }
            return;
        }
        self.publish(accepted, revision);
    }

    fn check(
        &self,
        job: &Job,
        pending: &HashMap<Key, Option<(Arc<Value>, u64)>>,
    ) -> Result<Option<Arc<Value>>, WriteError> {
        let present = match pending.get(&job.key) {
            Some(p) => p.clone(),
            None => self
                .state
                .read()
                .objects
                .get(&job.key)
                .map(|e| (e.object.clone(), e.revision)),
        };
        match (job.expect, present) {
            (Expect::Absent, None) => Ok(None),
            (Expect::Absent, Some(_)) => Err(WriteError::Exists),
            (Expect::Revision(_), None) => Err(WriteError::Gone),
            (Expect::Revision(r), Some((object, revision))) if r == revision => Ok(Some(object)),
            (Expect::Revision(_), Some(_)) => Err(WriteError::Modified),
        }
    }

    fn commit(&self, accepted: &[(Event, Reply)], revision: u64) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut objects = write.open_table(OBJECTS)?;
            for (event, _) in accepted {
                let key = event.key.encode();
                if event.change == Change::Deleted {
                    objects.remove(key.as_str())?;
                } else {
                    let bytes = serde_json::to_vec(&*event.object)
                        .map_err(|e| redb::Error::Corrupted(e.to_string()))?;
                    objects.insert(key.as_str(), bytes.as_slice())?;
                }
            }
            write.open_table(META)?.insert("revision", revision)?;
        }
        write.commit()?;
        Ok(())
    }

    fn publish(&self, accepted: Vec<(Event, Reply)>, revision: u64) {
        let mut replies = Vec::with_capacity(accepted.len());
        {
            let mut state = self.state.write();
            let opened = state.opened;
            for (event, reply) in accepted {
                let key = event.key.clone();
                replies.push((reply, event.object.clone()));
                if event.change == Change::Deleted {
                    state.objects.remove(&key);
                } else {
                    state.objects.insert(
                        key.clone(),
                        Entry {
                            revision: event.revision,
                            object: event.object.clone(),
                        },
                    );
                }
                let ring = state.rings.entry(key.resource).or_insert_with(|| Ring {
                    floor: opened,
                    events: VecDeque::new(),
                });
                if ring.events.len() >= RING {
                    ring.floor = ring.events.pop_front().map_or(ring.floor, |e| e.revision);
                }
                ring.events.push_back(Arc::new(event));
            }
            state.revision = revision;
        }
        self.notify.send_replace(revision);
        for (reply, object) in replies {
            let _ = reply.send(Ok(object));
        }
    }
}

fn accept(job: Job, previous: Option<Arc<Value>>, revision: u64) -> (Event, Reply) {
    let (change, object) = match (job.object, &previous) {
        (Some(mut object), before) => {
            stamp(&mut object, revision);
            (
                if before.is_some() {
                    Change::Modified
                } else {
                    Change::Added
                },
                Arc::new(object),
            )
        }
        (None, before) => {
            let mut object = before.as_deref().cloned().unwrap_or(Value::Null);
            stamp(&mut object, revision);
            (Change::Deleted, Arc::new(object))
        }
    };
    (
        Event {
            revision,
            change,
            key: job.key,
            object,
            previous,
        },
        job.reply,
    )
}

#[cfg(test)]
mod tests;
