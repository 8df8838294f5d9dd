//! Requests as format strings ask for them.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::Version;

use super::FilterContext;
use crate::format::{Address, Facts, Text};
use crate::matcher::RequestView;
use crate::network::facts::{OfConnection, text_of};

impl Facts for FilterContext<'_, '_> {
    fn request(&self) -> Option<RequestView<'_>> {
        Some(self.view())
    }

    fn address(&self, address: Address) -> Option<SocketAddr> {
        match address {
            Address::Remote => {
                let port = match self.remote() == self.connection.peer.source {
                    true => self.connection.source.port(),
                    false => 0,
                };
                Some(SocketAddr::new(self.remote(), port))
            }
            other => OfConnection(self.connection).address(other),
        }
    }

    fn text(&self, text: Text) -> Option<Cow<'_, str>> {
        match text {
            Text::Protocol => Some(Cow::Borrowed(match self.parts.version {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2",
                _ => "HTTP/1.1",
            })),
            Text::RouteName => {
                let found = self.routing.found?;
                Some(Cow::Borrowed(&*found.route.name))
            }
            Text::Cluster | Text::ClusterRaw => {
                self.routing.cluster.map(|name| Cow::Borrowed(&**name))
            }
            other => text_of(self.connection, other),
        }
    }
}
