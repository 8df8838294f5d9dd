//! Endpoints at original destinations: made where a client goes, kept while they are used.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::endpoint::{Endpoint, Flag};

/// Destinations kept at a time; connections to others are not pooled.
const MOST: usize = 8192;

/// The endpoints of an original destination cluster, by address.
#[derive(Debug, Default)]
pub struct Originals(Mutex<HashMap<SocketAddr, Kept>>);

#[derive(Debug)]
struct Kept {
    endpoint: Arc<Endpoint>,
    used: bool,
}

// === impl Originals ===

impl Originals {
    /// The endpoint at an address.
    pub(super) fn at(&self, address: SocketAddr, workers: usize) -> Arc<Endpoint> {
        let mut kept = self.0.lock();
        if let Some(found) = kept.get_mut(&address) {
            found.used = true;
            return found.endpoint.clone();
        }
        let endpoint = Endpoint::original(address, workers);
        if kept.len() < MOST {
            let entry = Kept {
                endpoint: endpoint.clone(),
                used: true,
            };
            kept.insert(address, entry);
        } else {
            endpoint.set(Flag::Removed, true);
        }
        endpoint
    }

    /// Lets those go that were not used since the last time and are not in use.
    pub fn clean(&self) {
        self.0.lock().retain(|_, kept| {
            let idle = kept.endpoint.active.load(Ordering::Relaxed) == 0;
            let stays = std::mem::take(&mut kept.used) || !idle;
            if !stays {
                kept.endpoint.set(Flag::Removed, true);
            }
            stays
        });
    }

    /// Lets all go.
    pub(super) fn forget(&self) {
        for (_, kept) in self.0.lock().drain() {
            kept.endpoint.set(Flag::Removed, true);
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        let kept = self.0.lock();
        kept.values().map(|kept| kept.endpoint.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_kept_while_it_is_used_and_their_number_is_bounded() {
        let originals = Originals::default();
        let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let first = originals.at(at(1), 1);
        assert!(Arc::ptr_eq(&first, &originals.at(at(1), 1)));
        originals.clean();
        assert_eq!(originals.all().len(), 1, "used since the last time");
        first.active.fetch_add(1, Ordering::Relaxed);
        originals.clean();
        assert_eq!(originals.all().len(), 1, "in use");
        first.active.fetch_sub(1, Ordering::Relaxed);
        originals.clean();
        assert!(originals.all().is_empty() && first.is_removed());
        for port in 0..=u16::try_from(MOST).unwrap() {
            originals.at(at(port), 1);
        }
        assert_eq!(originals.all().len(), MOST);
    }
}
