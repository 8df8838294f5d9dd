//! Sessions that a cluster may resume: room for them is made when there is one.

use std::sync::OnceLock;

use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls_pki_types::ServerName;

/// A memory of sessions that weighs nothing before the first: rustls' own takes 14 KiB for 256 sessions at once, and most
/// clusters of a large mesh are never called by this pod.
#[derive(Debug)]
pub struct Sessions {
    most: usize,
    memory: OnceLock<ClientSessionMemoryCache>,
}

impl Sessions {
    /// Remembers so many.
    pub fn new(most: usize) -> Sessions {
        Sessions {
            most,
            memory: OnceLock::new(),
        }
    }

    fn memory(&self) -> &ClientSessionMemoryCache {
        self.memory
            .get_or_init(|| ClientSessionMemoryCache::new(self.most))
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.memory().set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.memory.get()?.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.memory().set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.memory.get()?.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        if let Some(memory) = self.memory.get() {
            memory.remove_tls12_session(server);
        }
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.memory().insert_tls13_ticket(server, value);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.memory.get()?.take_tls13_ticket(server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_makes_no_room_remembering_does() {
        let sessions = Sessions::new(256);
        let server = ServerName::try_from("web.shop").unwrap();
        assert!(sessions.kx_hint(&server).is_none());
        assert!(sessions.tls12_session(&server).is_none());
        assert!(sessions.take_tls13_ticket(&server).is_none());
        sessions.remove_tls12_session(&server);
        assert!(sessions.memory.get().is_none());
        sessions.set_kx_hint(server.clone(), NamedGroup::X25519);
        assert_eq!(sessions.kx_hint(&server), Some(NamedGroup::X25519));
    }
}
