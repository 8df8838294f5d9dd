//! TLS contexts and secrets from protobuf.

use std::sync::Arc;

use base64::Engine;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use xds::client::Kind;

use super::matching::string;
use super::route::data;
use super::{At, Checked, Context, each, extension, flag, refuse};
use crate::tls::{
    CURVES, CertificateSource, DownstreamTls, NameKind, NameMatch, Revocations, SUITES, Secret,
    TlsContext, UpstreamTls, Validation, ValidationSource,
};

/// Sessions a cluster remembers unless it says otherwise; Envoy remembers one per worker.
const SESSIONS: u32 = 256;
/// The most a cluster may remember: about 1 KiB each.
const MAX_SESSIONS: usize = 64 << 10;

pub(super) fn downstream(
    message: &pb::DownstreamTlsContext,
    context: &mut Context,
) -> Checked<DownstreamTls> {
    use pb::downstream_tls_context::SessionTicketKeysType;
    let common = common(message.common_tls_context.as_ref(), context).at("common_tls_context")?;
    if matches!(common.certificate, CertificateSource::None) {
        return refuse("a server needs a certificate").at("common_tls_context.tls_certificates");
    }
    let require_client_certificate = flag(message.require_client_certificate.as_ref(), false);
    if require_client_certificate && matches!(common.validation, ValidationSource::None) {
        return refuse("a validation context is needed: without one nobody would be trusted")
            .at("common_tls_context.validation_context");
    }
    let stateless_off = matches!(
        message.session_ticket_keys_type,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(
            true
        ))
    );
    Ok(DownstreamTls {
        common,
        require_client_certificate,
        require_sni: flag(message.require_sni.as_ref(), false),
        resumption: !(message.disable_stateful_session_resumption && stateless_off),
    })
}

pub(super) fn upstream(
    message: &pb::UpstreamTlsContext,
    context: &mut Context,
) -> Checked<UpstreamTls> {
    let common = common(message.common_tls_context.as_ref(), context).at("common_tls_context")?;
    if matches!(common.validation, ValidationSource::None) {
        return refuse("a validation context is needed: an upstream nobody verifies is nobody's")
            .at("common_tls_context.validation_context");
    }
    if message.auto_sni_san_validation && message.sni.is_empty() && !message.auto_host_sni {
        return refuse("needs sni or auto_host_sni").at("auto_sni_san_validation");
    }
    let sessions = message.max_session_keys.map_or(SESSIONS, |keys| keys.value);
    Ok(UpstreamTls {
        common,
        sni: message.sni.clone(),
        sni_of_host: message.auto_host_sni,
        verifies_sni: message.auto_sni_san_validation,
        sessions: usize::try_from(sessions)
            .unwrap_or(usize::MAX)
            .min(MAX_SESSIONS),
    })
}

fn common(message: Option<&pb::CommonTlsContext>, context: &mut Context) -> Checked<TlsContext> {
    let default = pb::CommonTlsContext::default();
    let message = message.unwrap_or(&default);
    let (tls12, tls13, ciphers) = parameters(message.tls_params.as_ref()).at("tls_params")?;
    let curves = curves(message.tls_params.as_ref()).at("tls_params.ecdh_curves")?;
    Ok(TlsContext {
        curves,
        tls12,
        tls13,
        ciphers,
        alpn: message.alpn_protocols.clone(),
        certificate: certificate(message, context)?,
        validation: validation_source(message, context)?,
    })
}

fn certificate(
    message: &pb::CommonTlsContext,
    context: &mut Context,
) -> Checked<CertificateSource> {
    match (
        message.tls_certificates.as_slice(),
        message.tls_certificate_sds_secret_configs.as_slice(),
    ) {
        ([], []) => Ok(CertificateSource::None),
        ([certificate], []) => Ok(CertificateSource::Inline(
            certified(certificate).at("tls_certificates[0]")?,
        )),
        ([], [secret]) if is_own(&secret.name, context) => Ok(CertificateSource::Own),
        ([], [secret]) => Ok(CertificateSource::Secret(
            context.needs(Kind::Secret, &secret.name),
        )),
        _ => refuse("one certificate is supported").at("tls_certificates"),
    }
}

/// Without an identity of its own, the proxy asks for every secret by name.
fn is_own(name: &str, context: &Context) -> bool {
    !name.is_empty() && *name == *context.own_certificate
}

fn validation_source(
    message: &pb::CommonTlsContext,
    context: &mut Context,
) -> Checked<ValidationSource> {
    use pb::common_tls_context::ValidationContextType as Kinds;
    Ok(match &message.validation_context_type {
        None => ValidationSource::None,
        Some(Kinds::ValidationContext(inline)) => {
            let checked = validation(inline).at("validation_context")?;
            if !checked.has_roots() {
                return refuse("is needed").at("validation_context.trusted_ca");
            }
            ValidationSource::Inline(Arc::new(checked))
        }
        Some(Kinds::ValidationContextSdsSecretConfig(secret)) => {
            ValidationSource::Secret(context.needs(Kind::Secret, &secret.name))
        }
        Some(Kinds::CombinedValidationContext(combined)) => {
            let default = combined
                .default_validation_context
                .clone()
                .unwrap_or_default();
            let default = validation(&default)
                .at("combined_validation_context.default_validation_context")?;
            let Some(secret) = &combined.validation_context_sds_secret_config else {
                return refuse("is needed")
                    .at("combined_validation_context.validation_context_sds_secret_config");
            };
            ValidationSource::Combined(Arc::new(default), context.needs(Kind::Secret, &secret.name))
        }
        Some(_) => return refuse("this kind of validation context is not supported"),
    })
}

fn parameters(message: Option<&pb::TlsParameters>) -> Checked<(bool, bool, Vec<String>)> {
    use pb::tls_parameters::TlsProtocol as Version;
    let Some(message) = message else {
        return Ok((true, true, Vec::new()));
    };
    let version = |number| Version::try_from(number).or_else(|_| refuse("an unknown version"));
    let lowest =
        version(message.tls_minimum_protocol_version).at("tls_minimum_protocol_version")?;
    let highest =
        version(message.tls_maximum_protocol_version).at("tls_maximum_protocol_version")?;
    // TLS 1.0 and 1.1 are not spoken: a lower minimum means 1.2, a lower maximum nothing.
    if matches!(highest, Version::TlSv10 | Version::TlSv11) {
        return refuse("TLS 1.0 and 1.1 are not spoken").at("tls_maximum_protocol_version");
    }
    let tls12 = lowest != Version::TlSv13;
    let tls13 = highest != Version::TlSv12;
    if !tls12 && !tls13 {
        return refuse("is above the maximum").at("tls_minimum_protocol_version");
    }
    let known = |name: &String| SUITES.iter().any(|(suite, _)| suite == name);
    // Envoy's bracketed groups of equal preference are read as their members.
    let named = message
        .cipher_suites
        .iter()
        .flat_map(|name| name.trim_matches(['[', ']']).split('|'));
    let ciphers: Vec<String> = named.map(str::to_owned).filter(known).collect();
    if !message.cipher_suites.is_empty() && ciphers.is_empty() && !tls13 {
        return refuse("none of these suites is supported").at("cipher_suites");
    }
    Ok((tls12, tls13, ciphers))
}

fn curves(message: Option<&pb::TlsParameters>) -> Checked<Vec<String>> {
    let named = message.map_or(&[][..], |message| &message.ecdh_curves);
    match named
        .iter()
        .find(|name| CURVES.iter().all(|(known, _)| known != name))
    {
        Some(unknown) => refuse(format!("{unknown:?} is not supported")),
        None => Ok(named.to_vec()),
    }
}

pub(super) fn secret(message: pb::Secret) -> Checked<Secret> {
    match &message.r#type {
        Some(pb::secret::Type::TlsCertificate(certificate)) => Ok(Secret::Certificate(
            certified(certificate).at("tls_certificate")?,
        )),
        Some(pb::secret::Type::ValidationContext(context)) => {
            let checked = validation(context).at("validation_context")?;
            if !checked.has_roots() {
                return refuse("is needed").at("validation_context.trusted_ca");
            }
            Ok(Secret::Validation(Arc::new(checked)))
        }
        _ => refuse("tls_certificate or validation_context is needed"),
    }
}

fn validation(message: &pb::CertificateValidationContext) -> Checked<Validation> {
    let roots = message
        .trusted_ca
        .as_ref()
        .map(roots)
        .transpose()
        .at("trusted_ca")?;
    let names = each(
        "match_typed_subject_alt_names",
        &message.match_typed_subject_alt_names,
        |matcher| {
            use pb::subject_alt_name_matcher::SanType;
            let kind = match SanType::try_from(matcher.san_type) {
                Ok(SanType::Dns) => NameKind::Dns,
                Ok(SanType::Uri) => NameKind::Uri,
                Ok(SanType::Email) => NameKind::Email,
                Ok(SanType::IpAddress) => NameKind::Ip,
                _ => return refuse("this type of name is not supported").at("san_type"),
            };
            match &matcher.matcher {
                Some(found) => Ok(NameMatch {
                    kind,
                    matcher: string(found).at("matcher")?,
                }),
                None => refuse("a matcher is needed").at("matcher"),
            }
        },
    )?;
    let revocations = match &message.crl {
        Some(source) => revocations(source).at("crl")?,
        None => Arc::new([]),
    };
    let domains = match &message.custom_validator_config {
        Some(config) => domains(config).at("custom_validator_config.typed_config")?,
        None => Vec::new(),
    };
    Ok(Validation {
        roots,
        domains,
        names,
        certificates: each(
            "verify_certificate_hash",
            &message.verify_certificate_hash,
            |text| fixed(hexadecimal(text)),
        )?,
        keys: each(
            "verify_certificate_spki",
            &message.verify_certificate_spki,
            |text| fixed(base64(text)),
        )?,
        revocations,
        revocation_of_leaf_only: message.only_verify_leaf_cert_crl,
    })
}

/// The SPIFFE validator: a bundle for each trust domain.
fn domains(config: &TypedExtensionConfig) -> Checked<Vec<(Arc<str>, Arc<RootCertStore>)>> {
    let found = config.typed_config.as_ref();
    let Some(found) = found.and_then(extension::<pb::SpiffeCertValidatorConfig>) else {
        return refuse("only SPIFFECertValidatorConfig is supported");
    };
    let found = found?;
    if found.trust_domains.is_empty() {
        return refuse("is needed").at("trust_domains");
    }
    let list = each("trust_domains", &found.trust_domains, |domain| {
        let Some(bundle) = &domain.trust_bundle else {
            return refuse("is needed").at("trust_bundle");
        };
        let name: Arc<str> = domain.name.to_ascii_lowercase().into();
        Ok((name, roots(bundle).at("trust_bundle")?))
    })?;
    let mut names: Vec<&str> = list.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair.first() == pair.last()) {
        return refuse("a trust domain stands twice").at("trust_domains");
    }
    Ok(list)
}

fn revocations(source: &DataSource) -> Checked<Arc<[Revocations]>> {
    match ca::parse_revocations(&data(source)?) {
        Ok(lists) if lists.is_empty() => refuse("holds no revocation list"),
        Ok(lists) => Ok(lists.into()),
        Err(error) => refuse(format!("not PEM revocation lists: {error}")),
    }
}

fn fixed(bytes: Option<Vec<u8>>) -> Checked<[u8; 32]> {
    match bytes.and_then(|bytes| bytes.try_into().ok()) {
        Some(sum) => Ok(sum),
        None => refuse("not a SHA-256"),
    }
}

/// Hexadecimal digits, with or without colons between the bytes.
fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b':')
        .map(|byte| {
            char::from(byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect::<Option<_>>()?;
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(high << 4 | low),
        _ => None,
    });
    pairs.collect()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

fn roots(source: &DataSource) -> Checked<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(source)? {
        store
            .add(certificate)
            .or_else(|error| refuse(format!("not a root certificate: {error}")))?;
    }
    if store.is_empty() {
        refuse("holds no certificate")
    } else {
        Ok(Arc::new(store))
    }
}

fn certificates(source: &DataSource) -> Checked<Vec<CertificateDer<'static>>> {
    let pem = data(source)?;
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    list.or_else(|error| refuse(format!("not PEM certificates: {error}")))
}

fn certified(message: &pb::TlsCertificate) -> Checked<Arc<CertifiedKey>> {
    let (Some(chain), Some(key)) = (&message.certificate_chain, &message.private_key) else {
        return refuse("certificate_chain and private_key are needed");
    };
    let chain = certificates(chain).at("certificate_chain")?;
    // Never quote a key: the error's own text could.
    let key = PrivateKeyDer::from_pem_slice(&data(key).at("private_key")?)
        .or_else(|_| refuse("not an unencrypted PEM key").at("private_key"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider
        .key_provider
        .load_private_key(key)
        .or_else(|_| refuse("of an unsupported kind").at("private_key"))?;
    let made = CertifiedKey::new(chain, key);
    match is_pair(&made) {
        true => Ok(Arc::new(made)),
        false => refuse("the key does not fit the certificate"),
    }
}

/// Whether the key is the leaf's. rustls' own comparison knows X.509 version 3 only; certificates of version 1,
/// which `openssl x509 -req` makes without extensions, may be served (and are trusted by nobody who looks at names).
fn is_pair(made: &CertifiedKey) -> bool {
    let leaf = made.cert.first().and_then(crate::tls::key);
    let own = made.key.public_key().map(|key| key.to_vec());
    leaf.is_some() && leaf == own
}
