//! The service over gRPC: its answer as a decision.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::verdict::{Approval, Decision, Denial, is_free};
use super::{Body, ExtAuthz, check};
use crate::http::call::GrpcService;
use crate::http::filters::FilterContext;
use crate::route::AddMode;

/// The method of the service.
pub(crate) const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Asks. What is asked is taken from the request before the wait begins.
pub(super) fn ask<'a>(
    service: &'a GrpcService,
    filter: &ExtAuthz,
    context: &FilterContext<'_, '_>,
    body: Option<&Body>,
    extensions: HashMap<String, String>,
) -> impl Future<Output = Decision> + Send + use<'a> {
    let question = check::question(&filter.shown, context, body, extensions);
    let metadata = service.metadata(context);
    let worker = context.connection.worker.clone();
    async move {
        match service.call(&worker, METHOD, metadata, &question).await {
            Ok(answer) => decision(answer),
            Err(error) => {
                tracing::debug!(%error, "authorization service");
                Decision::Failed(None)
            }
        }
    }
}

fn decision(answer: CheckResponse) -> Decision {
    // No status is OK: the default of the message.
    let is_ok = answer.status.is_none_or(|status| status.code == 0);
    match (answer.http_response, is_ok) {
        (Some(HttpResponse::ErrorResponse(error)), _) => {
            let mut denial = denial(error);
            denial.status = denial.status.filter(|status| *status != StatusCode::OK);
            Decision::Failed(Some(Box::new(denial)))
        }
        (Some(HttpResponse::OkResponse(ok)), true) => Decision::Approved(Box::new(approval(ok))),
        (_, true) => Decision::Approved(Box::default()),
        (Some(HttpResponse::DeniedResponse(denied)), false) => {
            Decision::Denied(Box::new(denial(denied)))
        }
        (_, false) => Decision::Denied(Box::default()),
    }
}

fn approval(ok: OkHttpResponse) -> Approval {
    let mut approval = Approval::default();
    for option in &ok.headers {
        let Some((name, value)) = header(option) else {
            approval.invalid = true;
            continue;
        };
        if append(option) == Some(true) {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => approval.append.push((name, value)),
                Err(_) => approval.invalid = true,
            }
        } else {
            approval.set.push((name, value));
        }
    }
    for name in &ok.headers_to_remove {
        approval.remove(name);
    }
    for option in &ok.response_headers_to_add {
        let name = |name: String| HeaderName::from_bytes(name.as_bytes()).ok();
        match header(option).and_then(|(key, value)| Some((name(key)?, value))) {
            Some((name, value)) if is_free(&name) => {
                approval.response.push((mode(option), name, value));
            }
            Some(_) => {}
            None => approval.invalid = true,
        }
    }
    let parameters = ok.query_parameters_to_set.into_iter();
    approval.query_set = parameters
        .map(|parameter| (parameter.key, parameter.value))
        .collect();
    approval.query_remove = ok.query_parameters_to_remove;
    approval
}

fn denial(denied: DeniedHttpResponse) -> Denial {
    let status = denied.status.map(|status| status.code);
    let status = status
        .and_then(|code| u16::try_from(code).ok())
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| status.as_u16() >= 200);
    let headers = denied
        .headers
        .iter()
        // As Envoy: a denial sets headers, it appends none.
        .filter(|option| append(option) != Some(true))
        .filter_map(|option| {
            let (name, value) = header(option)?;
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            is_free(&name).then_some((name, value))
        });
    Denial {
        status,
        headers: headers.collect(),
        body: denied.body.into(),
    }
}

fn mode(option: &HeaderValueOption) -> AddMode {
    match HeaderAppendAction::try_from(option.append_action) {
        _ if append(option) == Some(false) => AddMode::Overwrite,
        Ok(HeaderAppendAction::AddIfAbsent) => AddMode::IfAbsent,
        Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => AddMode::Overwrite,
        Ok(HeaderAppendAction::OverwriteIfExists) => AddMode::OverwriteIfPresent,
        Ok(HeaderAppendAction::AppendIfExistsOrAdd) | Err(_) => AddMode::Append,
    }
}

/// The old field, which Envoy still reads of services.
#[allow(deprecated)]
fn append(option: &HeaderValueOption) -> Option<bool> {
    option.append.map(|append| append.value)
}

fn header(option: &HeaderValueOption) -> Option<(String, HeaderValue)> {
    let header = option.header.as_ref()?;
    let text = if header.value.is_empty() {
        header.raw_value.as_slice()
    } else {
        header.value.as_bytes()
    };
    let name = header.key.to_ascii_lowercase();
    Some((name, HeaderValue::from_bytes(text).ok()?)).filter(|(name, _)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::HeaderValue as PbHeader;
    use envoy_types::pb::envoy::r#type::v3::HttpStatus;
    use envoy_types::pb::google::protobuf::BoolValue;
    use envoy_types::pb::google::rpc;

    use super::*;

    fn option(name: &str, append: Option<bool>, action: i32) -> HeaderValueOption {
        #[allow(deprecated)]
        HeaderValueOption {
            header: Some(PbHeader {
                key: name.into(),
                value: "v".into(),
                ..Default::default()
            }),
            append: append.map(|value| BoolValue { value }),
            append_action: action,
            ..Default::default()
        }
    }

    fn answer(code: i32, response: Option<HttpResponse>) -> CheckResponse {
        CheckResponse {
            status: Some(rpc::Status {
                code,
                ..Default::default()
            }),
            http_response: response,
            ..Default::default()
        }
    }

    #[test]
    fn an_answer_is_an_approval_a_denial_or_a_failure() {
        let denied = DeniedHttpResponse {
            status: Some(HttpStatus { code: 401 }),
            headers: vec![
                option("x-a", None, 0),
                option("x-b", Some(true), 0),
                option("content-length", None, 0),
            ],
            body: "go away".into(),
        };
        match decision(answer(
            7,
            Some(HttpResponse::DeniedResponse(denied.clone())),
        )) {
            Decision::Denied(denial) => {
                assert_eq!(denial.status, Some(StatusCode::UNAUTHORIZED));
                assert_eq!(denial.headers.len(), 1);
                assert_eq!(denial.body, "go away");
            }
            other => panic!("{other:?}"),
        }
        let shown = |answer| format!("{:?}", decision(answer));
        assert!(shown(CheckResponse::default()).starts_with("Approved"));
        assert!(shown(answer(0, None)).starts_with("Approved"));
        assert!(shown(answer(16, None)).starts_with("Denied"));
        let error = HttpResponse::ErrorResponse(denied);
        assert!(shown(answer(13, Some(error))).starts_with("Failed(Some"));
    }

    #[test]
    fn headers_of_an_approval_are_set_appended_and_added() {
        let ok = OkHttpResponse {
            headers: vec![
                option("X-Set", None, 0),
                option("x-false", Some(false), 0),
                option("x-append", Some(true), 0),
                option("x-action", None, 1),
                option("", None, 0),
            ],
            headers_to_remove: vec!["x-gone".into(), "host".into(), ":path".into()],
            response_headers_to_add: (0..4).map(|action| option("x-r", None, action)).collect(),
            ..Default::default()
        };
        let approval = approval(ok);
        let set: Vec<&str> = approval.set.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(set, ["x-set", "x-false", "x-action"]);
        assert_eq!(approval.append.len(), 1);
        assert_eq!(approval.remove, [HeaderName::from_static("x-gone")]);
        let modes: Vec<AddMode> = approval.response.iter().map(|(mode, ..)| *mode).collect();
        assert_eq!(
            modes,
            [
                AddMode::Append,
                AddMode::IfAbsent,
                AddMode::Overwrite,
                AddMode::OverwriteIfPresent
            ]
        );
        assert!(approval.invalid);
    }
}
