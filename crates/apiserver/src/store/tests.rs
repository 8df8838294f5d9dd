//! The store: what survives, who loses, what watchers are told.

use super::*;
use serde_json::json;

fn key(name: &str) -> Key {
    Key::new(&Arc::from("configmaps"), "ns", name)
}

fn object(name: &str, data: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns"}, "data": {"k": data}})
}

#[tokio::test]
async fn objects_and_revision_are_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.redb");
    let store = Store::open(&path).unwrap();
    store
        .put(key("a"), Expect::Absent, object("a", "1"))
        .await
        .unwrap();
    let b = store
        .put(key("b"), Expect::Absent, object("b", "1"))
        .await
        .unwrap();
    let revision = revision_of(&b);
    store
        .delete(key("a"), revision_of(&store.get(&key("a")).unwrap().0))
        .await
        .unwrap();
    store.close();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.revision(), revision + 1);
    assert!(store.get(&key("a")).is_none());
    assert_eq!(*store.get(&key("b")).unwrap().0, *b);
    // The rings are empty now: what happened before cannot be replayed.
    assert_eq!(
        store.events(&Arc::from("configmaps"), revision),
        Err(revision + 1).map(|(): ()| (Vec::new(), 0))
    );
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision
    }
}

#[tokio::test]
async fn a_writer_with_an_old_revision_loses() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s.redb")).unwrap();
    let first = store
        .put(key("a"), Expect::Absent, object("a", "1"))
        .await
        .unwrap();
    assert_eq!(
        store.put(key("a"), Expect::Absent, object("a", "2")).await,
        Err(WriteError::Exists)
    );
    let revision = revision_of(&first);
    store
        .put(key("a"), Expect::Revision(revision), object("a", "2"))
        .await
        .unwrap();
    assert_eq!(
        store
            .put(key("a"), Expect::Revision(revision), object("a", "3"))
            .await,
        Err(WriteError::Modified)
    );
    assert_eq!(store.delete(key("z"), 1).await, Err(WriteError::Gone));
}

#[tokio::test]
async fn events_come_in_order_and_old_ones_are_refused_when_the_ring_has_dropped_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s.redb")).unwrap());
    let resource: Arc<str> = Arc::from("configmaps");
    let start = store.revision();
    let writes = (0..RING + 1).map(|i| {
        let store = store.clone();
        async move {
            store
                .put(key(&format!("n{i}")), Expect::Absent, object("n", "1"))
                .await
                .is_ok()
        }
    });
    let mut done = 0;
    let mut stream = futures::StreamExt::buffer_unordered(futures::stream::iter(writes), 500);
    while let Some(ok) = futures::StreamExt::next(&mut stream).await {
        done += usize::from(ok);
    }
    assert_eq!(done, RING + 1);
    assert!(store.events(&resource, start).is_err());
    let (events, position) = store.events(&resource, start + 1).unwrap();
    assert_eq!(events.len(), RING);
    assert!(events.windows(2).all(|w| w[0].revision < w[1].revision));
    assert_eq!(position, store.revision());
}
