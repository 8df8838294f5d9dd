//! What a service decides, and what it may change.

use bytes::Bytes;
use http::StatusCode;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

use crate::http::filters::header_mutation::{joined, parameters, set};
use crate::http::filters::headers::Additions;
use crate::route::AddMode;

/// The decision.
#[derive(Debug)]
pub(super) enum Decision {
    /// The request may pass.
    Approved(Box<Approval>),
    /// It may not.
    Denied(Box<Denial>),
    /// There is none; perhaps with words for the client.
    Failed(Option<Box<Denial>>),
}

/// How the request is to go on. Names are as the service wrote them: they may be pseudo headers.
#[derive(Debug, Default)]
pub(super) struct Approval {
    /// Set, in place of what is there.
    pub set: Vec<(String, HeaderValue)>,
    /// Added beside what is there.
    pub add: Vec<(String, HeaderValue)>,
    /// Joined to what is there, if it is.
    pub append: Vec<(HeaderName, HeaderValue)>,
    /// Removed.
    pub remove: Vec<HeaderName>,
    /// Query parameters that are set.
    pub query_set: Vec<(String, String)>,
    /// Query parameters that are removed.
    pub query_remove: Vec<String>,
    /// Headers of the response.
    pub response: Additions,
    /// Something of it was not a header.
    pub invalid: bool,
}

/// The reply to the client.
#[derive(Debug, Default)]
pub(super) struct Denial {
    /// Its status, if it is said.
    pub status: Option<StatusCode>,
    /// Its headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Bytes,
}

impl Approval {
    /// Whether it changes the request.
    pub fn changes(&self) -> bool {
        !(self.set.is_empty()
            && self.add.is_empty()
            && self.append.is_empty()
            && self.remove.is_empty()
            && self.query_set.is_empty()
            && self.query_remove.is_empty())
    }

    /// Whether all of it was valid.
    pub fn is_valid(&self) -> bool {
        !self.invalid
    }

    /// Removes a header, but for those a request cannot be without.
    pub fn remove(&mut self, name: &str) {
        if let Ok(name) = HeaderName::from_bytes(name.trim().as_bytes())
            && is_free(&name)
        {
            self.remove.push(name);
        }
    }
}

/// Whether others may change a header: those of framing and of the hop are the proxy's own.
pub(super) fn is_free(name: &HeaderName) -> bool {
    ![
        HOST,
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        CONNECTION,
        UPGRADE,
        TE,
    ]
    .contains(name)
}

/// Whether a text may stand as authority.
pub(super) fn is_authority(text: &str) -> bool {
    !text.is_empty() && text.parse::<http::uri::Authority>().is_ok() && !text.contains('@')
}

/// Path and query with parameters removed and set.
pub(super) fn query(
    path: &str,
    query: &str,
    setting: &[(String, String)],
    removing: &[String],
) -> String {
    let mut pairs = parameters(query);
    pairs.retain(|(name, _)| !removing.contains(name));
    for (name, value) in setting {
        set(&mut pairs, AddMode::Overwrite, name, value.as_str().into());
    }
    joined(path, pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_set_and_removed() {
        let set = [("q".to_owned(), "new".to_owned())];
        let gone = ["gone".to_owned()];
        assert_eq!(query("/p", "x=1&gone=2&q=old", &set, &gone), "/p?q=new&x=1");
        assert_eq!(query("/p", "", &[], &gone), "/p");
    }

    #[test]
    fn framing_is_nobodys_business() {
        let mut approval = Approval::default();
        for name in ["host", "Content-Length", "te", " x-a ", ":path", "x b"] {
            approval.remove(name);
        }
        assert_eq!(approval.remove, [HeaderName::from_static("x-a")]);
        assert!(approval.changes());
        for (text, expected) in [("a:1", true), ("u@a", false), ("", false), ("a b", false)] {
            assert_eq!(is_authority(text), expected, "{text}");
        }
    }
}
