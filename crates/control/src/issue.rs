//! Issuing workload certificates: a ServiceAccount token in, a leaf for that ServiceAccount out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::TOKEN_AUDIENCE;
use ca::{Authority, Identity};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use model::Workload;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use xds::certificate::{CertificateRequest, CertificateResponse, CertificateService, bearer_token};

use crate::metrics::{Metric, Metrics};
use crate::world::{World, Worlds};

/// Prefix of the user name of a ServiceAccount's token.
const USER_PREFIX: &str = "system:serviceaccount:";

/// Claim of a token that is bound to a pod.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Time for one TokenReview.
const REVIEW_DEADLINE: Duration = Duration::from_secs(5);

/// TokenReviews at a time: a storm of new pods queues here and not at the API server.
const CONCURRENT: usize = 32;

/// Shortest validity a caller can ask for: below, it would renew for ever.
const SHORTEST_VALIDITY: Duration = Duration::from_secs(60);

/// Whom a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Namespace of the ServiceAccount.
    pub(crate) namespace: String,
    /// Name of the ServiceAccount.
    pub(crate) name: String,
    /// The pod the token is bound to, if it is.
    pub(crate) pod_uid: Option<String>,
}

/// Says whom a token stands for.
pub(crate) trait Review: Send + Sync + 'static {
    /// Checks the token; a `Status` is the refusal for the caller.
    fn review(&self, token: &str) -> impl Future<Output = Result<Account, Status>> + Send;
}

/// Asks the Kubernetes API server.
pub(crate) struct KubernetesReview(pub(crate) Client);

/// The certificate service.
pub(crate) struct Issuer<R> {
    authority: Arc<Authority>,
    trust_domain: String,
    worlds: Worlds,
    review: R,
    metrics: Arc<Metrics>,
    slots: Semaphore,
}

// === impl KubernetesReview ===

impl Review for KubernetesReview {
    async fn review(&self, token: &str) -> Result<Account, Status> {
        let reviews: Api<TokenReview> = Api::all(self.0.clone());
        let spec = TokenReviewSpec {
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            token: Some(token.to_owned()),
        };
        let review = TokenReview {
            spec,
            ..TokenReview::default()
        };
        let answer = tokio::time::timeout(
            REVIEW_DEADLINE,
            reviews.create(&PostParams::default(), &review),
        )
        .await;
        match answer {
            Ok(Ok(review)) => account(review),
            Ok(Err(error)) => {
                tracing::warn!(%error, "TokenReview");
                Err(Status::unavailable(
                    "the token could not be checked: the API server refused the review",
                ))
            }
            Err(_) => Err(Status::unavailable(
                "the token could not be checked: the API server did not answer",
            )),
        }
    }
}

/// Reads the answer of a TokenReview.
fn account(review: TokenReview) -> Result<Account, Status> {
    let refuse = |why: &str| {
        Err(Status::unauthenticated(format!(
            "ServiceAccount token: {why}"
        )))
    };
    let Some(status) = review.status else {
        return refuse("not reviewed");
    };
    if status.authenticated != Some(true) {
        return refuse(status.error.as_deref().unwrap_or("not valid"));
    }
    // A server that knows no audiences leaves the list empty: then the token may be for anybody.
    if !status
        .audiences
        .unwrap_or_default()
        .iter()
        .any(|audience| audience == TOKEN_AUDIENCE)
    {
        return refuse(&format!("not for audience {TOKEN_AUDIENCE:?}"));
    }
    let Some(user) = status.user else {
        return refuse("without user");
    };
    let username = user.username.unwrap_or_default();
    let pod_uid = user
        .extra
        .and_then(|extra| extra.get(POD_UID)?.first().cloned());
    match username
        .strip_prefix(USER_PREFIX)
        .and_then(|rest| rest.split_once(':'))
    {
        Some((namespace, name)) => Ok(Account {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            pod_uid,
        }),
        None => refuse("not a ServiceAccount's"),
    }
}

// === impl Issuer ===

impl<R: Review> Issuer<R> {
    pub(crate) fn new(
        authority: Arc<Authority>,
        trust_domain: String,
        worlds: Worlds,
        review: R,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            authority,
            trust_domain,
            worlds,
            review,
            metrics,
            slots: Semaphore::new(CONCURRENT),
        }
    }

    async fn issue(
        &self,
        token: &str,
        request: &CertificateRequest,
    ) -> Result<Vec<String>, Status> {
        let account = {
            // Not held while waiting below: callers without a pod must not keep others out.
            let _slot = self
                .slots
                .acquire()
                .await
                .map_err(|_| Status::unavailable("ending"))?;
            self.review.review(token).await?
        };
        let identity = Identity::new(&self.trust_domain, &account.name, &account.namespace)
            .map_err(|error| Status::permission_denied(error.to_string()))?;
        // Only pods of the mesh get a certificate: a namespace that left it gets no new ones.
        let Some((world, _)) = self
            .worlds
            .clone()
            .wait_for(|world| pod_of(world, &account))
            .await
        else {
            let Account {
                namespace, name, ..
            } = &account;
            let message = format!(
                "ServiceAccount {namespace}/{name}: no such pod with a sidecar in the mesh"
            );
            return Err(Status::permission_denied(message));
        };
        let validity = validity(request.validity_duration, world.settings.leaf_validity);
        let chain = self
            .authority
            .sign_request(&request.csr, &identity, validity, SystemTime::now())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        tracing::info!(%identity, ?validity, "issued a certificate");
        self.metrics.add(Metric::CertificatesIssued, &[], 1);
        Ok(chain)
    }
}

#[tonic::async_trait]
impl<R: Review> CertificateService for Issuer<R> {
    async fn create_certificate(
        &self,
        request: Request<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let token = bearer_token(request.metadata())
            .ok_or_else(|| Status::unauthenticated("no bearer token in the authorization header"))?
            .to_owned();
        let request = request.into_inner();
        match self.issue(&token, &request).await {
            Ok(mut cert_chain) => {
                // Istio's clients expect the root last.
                cert_chain.push(self.authority.certificate_pem().to_owned());
                Ok(Response::new(CertificateResponse { cert_chain }))
            }
            Err(status) => {
                tracing::warn!(code = ?status.code(), reason = status.message(), "certificate refused");
                Err(status)
            }
        }
    }
}

/// A pod of the mesh that runs as the account; the very one the token is bound to, if it is bound.
fn pod_of<'a>(world: &'a World, account: &Account) -> Option<&'a Workload> {
    world.mesh.workloads().find(|workload| {
        *workload.account.namespace == *account.namespace
            && *workload.account.name == *account.name
            && account
                .pod_uid
                .as_ref()
                .is_none_or(|uid| **uid == *workload.uid)
    })
}

/// The configured validity, or a shorter one the caller asks for.
fn validity(asked_seconds: i64, configured: Duration) -> Duration {
    match u64::try_from(asked_seconds) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds)
            .max(SHORTEST_VALIDITY)
            .min(configured),
        _ => configured,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};

    use super::*;

    fn review(authenticated: bool, audiences: &[&str], user: &str) -> TokenReview {
        let status = TokenReviewStatus {
            authenticated: Some(authenticated),
            audiences: Some(audiences.iter().map(|a| (*a).to_owned()).collect()),
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                extra: Some([(POD_UID.to_owned(), vec!["uid-1".to_owned()])].into()),
                ..UserInfo::default()
            }),
            ..TokenReviewStatus::default()
        };
        TokenReview {
            status: Some(status),
            ..TokenReview::default()
        }
    }

    #[test]
    fn only_a_service_accounts_token_for_our_audience_counts() {
        let good = "system:serviceaccount:demo:curl";
        let account = Account {
            namespace: "demo".into(),
            name: "curl".into(),
            pod_uid: Some("uid-1".into()),
        };
        for (answer, expected) in [
            (review(true, &[TOKEN_AUDIENCE], good), Some(account)),
            (review(false, &[TOKEN_AUDIENCE], good), None),
            (
                review(true, &["https://kubernetes.default.svc"], good),
                None,
            ),
            (review(true, &[], good), None),
            (review(true, &[TOKEN_AUDIENCE], "admin"), None),
            (TokenReview::default(), None),
        ] {
            assert_eq!(super::account(answer.clone()).ok(), expected, "{answer:?}");
        }
    }

    #[test]
    fn validity_is_never_longer_than_configured() {
        let day = Duration::from_secs(86_400);
        for (asked, granted) in [
            (0, day),
            (-5, day),
            (3600, Duration::from_secs(3600)),
            (1, SHORTEST_VALIDITY),
            (i64::MAX, day),
        ] {
            assert_eq!(validity(asked, day), granted, "{asked}");
        }
        let short = Duration::from_secs(20);
        assert_eq!(validity(3600, short), short);
    }
}
