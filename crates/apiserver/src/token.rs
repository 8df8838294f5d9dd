//! ServiceAccount tokens: issued by the `token` subresource, checked on requests and in TokenReview.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use serde::{Deserialize, Serialize};

use crate::StartError;

/// Issuer, and audience when none is asked for, as in a cluster without configuration.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Older spelling of the audience that in-cluster clients know too.
pub const AUDIENCES: [&str; 2] = [ISSUER, "https://kubernetes.default.svc"];

/// An object named in a token.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// UID; the token dies with the object.
    pub uid: String,
}

/// The `kubernetes.io` claim.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Bound {
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Reference,
    /// The pod the token is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The node of that pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// When the holder should fetch a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// All claims.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Claims {
    /// Audiences.
    pub aud: Vec<String>,
    /// Expiry, seconds since 1970.
    pub exp: i64,
    /// Issue time.
    pub iat: i64,
    /// Start of validity.
    pub nbf: i64,
    /// Issuer.
    pub iss: String,
    /// Token id.
    pub jti: String,
    /// `system:serviceaccount:<namespace>:<name>`.
    pub sub: String,
    /// What the token is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
}

/// Signs and checks tokens.
pub struct Signer {
    encoding: EncodingKey,
    decoding: DecodingKey,
    key_id: String,
}

impl Signer {
    /// From the ServiceAccount key.
    pub fn new(key: &KeyPair) -> Result<Self, StartError> {
        use base64::Engine;
        let raw = key.der_bytes();
        let tail = raw.get(raw.len().saturating_sub(24)..).unwrap_or(raw);
        Ok(Self {
            encoding: EncodingKey::from_ec_der(&key.serialize_der()),
            decoding: DecodingKey::from_ec_der(raw),
            key_id: base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(tail),
        })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Claims) -> Result<String, String> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding)
            .map_err(|e| format!("signing a token: {e}"))
    }

    /// Checks signature, issuer and times; audiences and bindings are the caller's.
    pub fn verify(&self, token: &str) -> Result<Claims, String> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_aud = false;
        validation.validate_nbf = true;
        validation.leeway = 10;
        validation.set_issuer(&[ISSUER]);
        jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)
            .map(|data| data.claims)
            .map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(exp: i64) -> Claims {
        Claims {
            aud: vec!["a".into()],
            exp,
            iat: 0,
            nbf: 0,
            iss: ISSUER.into(),
            jti: "j".into(),
            sub: "system:serviceaccount:ns:sa".into(),
            kubernetes: Bound {
                namespace: "ns".into(),
                serviceaccount: Reference {
                    name: "sa".into(),
                    uid: "u".into(),
                },
                pod: None,
                node: None,
                warnafter: None,
            },
        }
    }

    #[test]
    fn signed_claims_verify_and_expired_or_foreign_ones_do_not() {
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let signer = Signer::new(&KeyPair::generate().unwrap()).unwrap();
        let other = Signer::new(&KeyPair::generate().unwrap()).unwrap();
        let good = claims(4_102_444_800);
        let token = signer.sign(&good).unwrap();
        assert_eq!(signer.verify(&token).unwrap(), good);
        assert!(other.verify(&token).is_err());
        assert!(
            signer
                .verify(&signer.sign(&claims(1_000)).unwrap())
                .is_err()
        );
    }
}
