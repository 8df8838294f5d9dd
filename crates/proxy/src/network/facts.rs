//! Connections as format strings ask for them.

use std::borrow::Cow;
use std::net::SocketAddr;

use crate::connection::Connection;
use crate::format::{Address, Facts, Text};

/// What is known of a connection.
pub struct OfConnection<'a>(pub &'a Connection);

impl Facts for OfConnection<'_> {
    fn address(&self, address: Address) -> Option<SocketAddr> {
        match address {
            Address::Remote | Address::DirectRemote => Some(self.0.source),
            Address::Local => Some(self.0.peer.destination),
            _ => None,
        }
    }

    fn text(&self, text: Text) -> Option<Cow<'_, str>> {
        text_of(self.0, text)
    }
}

/// One of the texts of a connection.
pub fn text_of(connection: &Connection, text: Text) -> Option<Cow<'_, str>> {
    let peer = &connection.peer;
    match text {
        Text::ServerName => peer.server_name.as_deref().map(Cow::Borrowed),
        Text::FilterChain => Some(Cow::Borrowed(&connection.chain.name)),
        Text::PeerUriSan => {
            let names = peer.names.as_ref()?;
            Some(Cow::Owned(names.join(",")))
        }
        _ => None,
    }
}
