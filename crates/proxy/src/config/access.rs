//! Access logs from protobuf.

use envoy_types::pb::envoy::config::accesslog::v3 as pb;
use envoy_types::pb::envoy::config::core::v3::{
    SubstitutionFormatString, substitution_format_string,
};
use envoy_types::pb::envoy::extensions::access_loggers::{file::v3 as file, stream::v3 as stream};
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;

use super::{At, Checked, each, extension, format, matching, refuse};
use crate::access::{Comparison, Condition, Logger, Sink};
use crate::format::{Content, Missing, Template};

/// Envoy's own format.
const FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

pub(super) fn loggers(list: &[pb::AccessLog]) -> Checked<Vec<Logger>> {
    each("access_log", list, logger)
}

fn logger(message: &pb::AccessLog) -> Checked<Logger> {
    let Some(pb::access_log::ConfigType::TypedConfig(any)) = &message.config_type else {
        return refuse("is needed").at("typed_config");
    };
    let (sink, form) = if let Some(file) = extension::<file::FileAccessLog>(any) {
        of_file(file?).at("typed_config")?
    } else if let Some(stdout) = extension::<stream::StdoutAccessLog>(any) {
        use stream::stdout_access_log::AccessLogFormat;
        let form = stdout?
            .access_log_format
            .map(|AccessLogFormat::LogFormat(form)| form);
        (Some(Sink::Stdout), form)
    } else if let Some(stderr) = extension::<stream::StderrAccessLog>(any) {
        use stream::stderr_access_log::AccessLogFormat;
        let form = stderr?
            .access_log_format
            .map(|AccessLogFormat::LogFormat(form)| form);
        (Some(Sink::Stderr), form)
    } else {
        return refuse(format!("{:?} is not supported", any.type_url)).at("typed_config");
    };
    let (content, missing) = match &form {
        Some(form) => (
            format::content(form).at("typed_config.log_format")?,
            format::missing(form),
        ),
        None => {
            let template = Template::parse(FORMAT).or_else(refuse)?;
            (Content::Text(template), Missing::Dash)
        }
    };
    Ok(Logger {
        sink,
        content,
        missing,
        condition: message
            .filter
            .as_ref()
            .map(condition)
            .transpose()
            .at("filter")?,
    })
}

type Form = Option<SubstitutionFormatString>;

fn of_file(message: file::FileAccessLog) -> Checked<(Option<Sink>, Form)> {
    use file::file_access_log::AccessLogFormat as Given;
    use substitution_format_string::Format;
    let sink = Sink::of(&message.path).or_else(|reason| refuse(reason).at("path"))?;
    let made = |given| SubstitutionFormatString {
        format: Some(given),
        ..Default::default()
    };
    #[allow(deprecated)] // Control planes still send the old fields.
    let form = match message.access_log_format {
        None => None,
        Some(Given::LogFormat(form)) => Some(form),
        Some(Given::Format(text)) if text.is_empty() => None,
        Some(Given::Format(text)) => Some(made(Format::TextFormat(text))),
        Some(Given::JsonFormat(json) | Given::TypedJsonFormat(json)) => {
            Some(made(Format::JsonFormat(json)))
        }
    };
    Ok((sink, form))
}

/// Which exchanges, or local replies, are meant.
pub(super) fn condition(message: &pb::AccessLogFilter) -> Checked<Condition> {
    use pb::access_log_filter::FilterSpecifier as Kind;
    Ok(match &message.filter_specifier {
        Some(Kind::StatusCodeFilter(filter)) => {
            let (how, number) =
                comparison(filter.comparison.as_ref()).at("status_code_filter.comparison")?;
            Condition::Status(how, number)
        }
        Some(Kind::DurationFilter(filter)) => {
            let (how, number) =
                comparison(filter.comparison.as_ref()).at("duration_filter.comparison")?;
            Condition::Duration(how, number)
        }
        Some(Kind::NotHealthCheckFilter(_)) => Condition::NotHealthCheck,
        Some(Kind::ResponseFlagFilter(filter)) => Condition::Flags(filter.flags.clone()),
        Some(Kind::HeaderFilter(filter)) => match &filter.header {
            Some(header) => Condition::Header(Box::new(
                matching::header(header).at("header_filter.header")?,
            )),
            None => return refuse("is needed").at("header_filter.header"),
        },
        Some(Kind::RuntimeFilter(filter)) => {
            let share = filter.percent_sampled.unwrap_or_default();
            let whole = match DenominatorType::try_from(share.denominator) {
                Ok(DenominatorType::Hundred) => 10_000,
                Ok(DenominatorType::TenThousand) => 100,
                Ok(DenominatorType::Million) => 1,
                Err(_) => {
                    return refuse("an unknown denominator").at("runtime_filter.percent_sampled");
                }
            };
            Condition::Share(u64::from(share.numerator).saturating_mul(whole))
        }
        Some(Kind::AndFilter(filter)) => {
            Condition::All(each("and_filter.filters", &filter.filters, condition)?)
        }
        Some(Kind::OrFilter(filter)) => {
            Condition::Any(each("or_filter.filters", &filter.filters, condition)?)
        }
        _ => return refuse("this filter is not supported"),
    })
}

fn comparison(message: Option<&pb::ComparisonFilter>) -> Checked<(Comparison, u32)> {
    use pb::comparison_filter::Op;
    let Some(message) = message else {
        return refuse("is needed");
    };
    let how = match Op::try_from(message.op) {
        Ok(Op::Eq) => Comparison::Equal,
        Ok(Op::Ge) => Comparison::AtLeast,
        Ok(Op::Le) => Comparison::AtMost,
        Ok(Op::Ne) => Comparison::NotEqual,
        Err(_) => return refuse("an unknown comparison").at("op"),
    };
    // Runtime keys are not there: the default is the value.
    let value = message
        .value
        .as_ref()
        .map_or(0, |value| value.default_value);
    Ok((how, value))
}
