//! Who asks: client certificates of the cluster CA and ServiceAccount tokens.

use std::collections::BTreeMap;

use http::HeaderMap;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::Server;
use crate::object;
use crate::status::{Failure, Outcome};
use crate::store::Key;
use crate::token::{AUDIENCES, Claims};

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// UID, for ServiceAccounts.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// More, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// As `authentication.k8s.io/v1.UserInfo`.
    pub fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

/// The user of a verified client certificate: CN and O.
pub fn from_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, leaf) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = leaf
        .subject()
        .iter_common_name()
        .next()?
        .as_str()
        .ok()?
        .to_owned();
    let mut groups: Vec<String> = leaf
        .subject()
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .map(str::to_owned)
        .collect();
    groups.push("system:authenticated".to_owned());
    Some(User {
        name,
        groups,
        ..User::default()
    })
}

/// The user of a request: a bearer token wins over the connection's certificate.
pub fn authenticate(
    server: &Server,
    headers: &HeaderMap,
    certificate: Option<&User>,
) -> Outcome<User> {
    if let Some(token) = bearer(headers) {
        return authenticate_token(server, &token, &[])
            .map(|(user, _)| user)
            .map_err(|_| unauthorized());
    }
    certificate.cloned().ok_or_else(unauthorized)
}

fn unauthorized() -> Failure {
    Failure::new(401, "Unauthorized", "Unauthorized")
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers
        .get(http::header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
    {
        let (scheme, token) = value.split_once(' ')?;
        return scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().to_owned());
    }
    // WebSocket clients in browsers cannot set headers and put the token into the subprotocol list.
    let protocols = headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL);
    let text = protocols
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim);
    let encoded = text
        .filter_map(|p| p.strip_prefix("base64url.bearer.authorization.k8s.io."))
        .next()?;
    use base64::Engine;
    String::from_utf8(
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(encoded)
            .ok()?,
    )
    .ok()
}

/// Checks a token for one of the audiences (none given: the server's own) and that what it is bound to still exists;
/// returns the user and the audiences that matched.
pub fn authenticate_token(
    server: &Server,
    token: &str,
    audiences: &[String],
) -> Result<(User, Vec<String>), String> {
    let claims = server.signer.verify(token)?;
    let wanted: Vec<String> = if audiences.is_empty() {
        AUDIENCES.iter().map(|a| (*a).to_owned()).collect()
    } else {
        audiences.to_vec()
    };
    let matched: Vec<String> = wanted
        .iter()
        .filter(|a| claims.aud.contains(a))
        .cloned()
        .collect();
    if matched.is_empty() {
        return Err(format!(
            "token audiences {:?} is invalid for the target audiences {wanted:?}",
            claims.aud
        ));
    }
    check_bindings(server, &claims)?;
    let bound = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    extra.insert(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("JTI={}", claims.jti)],
    );
    for (name, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(reference) = reference {
            extra.insert(
                format!("authentication.kubernetes.io/{name}-name"),
                vec![reference.name.clone()],
            );
            extra.insert(
                format!("authentication.kubernetes.io/{name}-uid"),
                vec![reference.uid.clone()],
            );
        }
    }
    let user = User {
        name: claims.sub.clone(),
        uid: bound.serviceaccount.uid.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", bound.namespace),
            "system:authenticated".to_owned(),
        ],
        extra,
    };
    Ok((user, matched))
}

fn check_bindings(server: &Server, claims: &Claims) -> Result<(), String> {
    let bound = &claims.kubernetes;
    let find = |resource: &str, name: &str| {
        server
            .store
            .get(&Key::new(
                &std::sync::Arc::from(resource),
                &bound.namespace,
                name,
            ))
            .map(|(o, _)| o)
    };
    let account = find("serviceaccounts", &bound.serviceaccount.name)
        .ok_or("service account has been deleted")?;
    if object::uid(&account) != bound.serviceaccount.uid {
        return Err("service account UID does not match claim".to_owned());
    }
    if let Some(reference) = &bound.pod {
        let pod =
            find("pods", &reference.name).ok_or("service account token has been invalidated")?;
        if object::uid(&pod) != reference.uid {
            return Err("service account token has been invalidated".to_owned());
        }
    }
    Ok(())
}
