//! Matchers and address ranges from protobuf.

use envoy_types::pb::envoy::config::core::v3::{CidrRange, HeaderValueOption, header_value_option};
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::{At, Checked, flag, refuse};
use crate::format::Template;
use crate::matcher::{Affix, HeaderCondition, HeaderKey, HeaderMatch, QueryMatch, StringMatch};
use crate::route::{AddMode, HeaderAdd, HeaderText};

pub(super) fn string(message: &matcher::StringMatcher) -> Checked<StringMatch> {
    use matcher::string_matcher::MatchPattern as Pattern;
    let affix = |affix: Affix, pattern: &str| match (message.ignore_case, affix) {
        (true, affix) => StringMatch::NoCase(affix, pattern.to_ascii_lowercase()),
        (false, Affix::Whole) => StringMatch::Exact(pattern.to_owned()),
        (false, affix) => StringMatch::Affix(affix, pattern.to_owned()),
    };
    match &message.match_pattern {
        Some(Pattern::Prefix(text) | Pattern::Suffix(text) | Pattern::Contains(text))
            if text.is_empty() =>
        {
            refuse("an empty pattern matches everything: Envoy takes none")
        }
        Some(Pattern::Exact(text)) => Ok(affix(Affix::Whole, text)),
        Some(Pattern::Prefix(text)) => Ok(affix(Affix::Prefix, text)),
        Some(Pattern::Suffix(text)) => Ok(affix(Affix::Suffix, text)),
        Some(Pattern::Contains(text)) => Ok(affix(Affix::Contains, text)),
        Some(Pattern::SafeRegex(regex)) => self::regex(regex).at("safe_regex"),
        Some(Pattern::Custom(_)) | None => refuse("a match pattern is needed"),
    }
}

pub(super) fn regex(message: &matcher::RegexMatcher) -> Checked<StringMatch> {
    StringMatch::regex(&message.regex).or_else(|reason| refuse(reason).at("regex"))
}

pub(super) fn header(message: &pb::HeaderMatcher) -> Checked<HeaderMatch> {
    use pb::header_matcher::HeaderMatchSpecifier as Specifier;
    let Some(key) = HeaderKey::parse(&message.name) else {
        return refuse(format!("{:?} is not a header name", message.name)).at("name");
    };
    let value = |matcher| HeaderCondition::Value(matcher);
    #[allow(deprecated)] // Control planes still send the old forms.
    let condition = match &message.header_match_specifier {
        None => HeaderCondition::Present(true),
        Some(Specifier::PresentMatch(present)) => HeaderCondition::Present(*present),
        Some(Specifier::ExactMatch(text)) => value(StringMatch::Exact(text.clone())),
        Some(Specifier::PrefixMatch(text)) => {
            value(StringMatch::Affix(Affix::Prefix, text.clone()))
        }
        Some(Specifier::SuffixMatch(text)) => {
            value(StringMatch::Affix(Affix::Suffix, text.clone()))
        }
        Some(Specifier::ContainsMatch(text)) => {
            value(StringMatch::Affix(Affix::Contains, text.clone()))
        }
        Some(Specifier::SafeRegexMatch(regex)) => value(self::regex(regex).at("safe_regex_match")?),
        Some(Specifier::StringMatch(matcher)) => value(string(matcher).at("string_match")?),
        Some(Specifier::RangeMatch(range)) => HeaderCondition::Range(range.start, range.end),
    };
    Ok(HeaderMatch {
        key,
        condition,
        invert: message.invert_match,
        missing_is_empty: message.treat_missing_header_as_empty,
    })
}

pub(super) fn query(message: &pb::QueryParameterMatcher) -> Checked<QueryMatch> {
    use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    let condition = match &message.query_parameter_match_specifier {
        None => Err(true),
        Some(Specifier::PresentMatch(present)) => Err(*present),
        Some(Specifier::StringMatch(matcher)) => Ok(string(matcher).at("string_match")?),
    };
    Ok(QueryMatch {
        name: message.name.clone(),
        condition,
    })
}

pub(super) fn range(message: &CidrRange) -> Checked<IpNet> {
    let address = message.address_prefix.parse().or_else(|_| {
        refuse(format!("{:?} is not an IP address", message.address_prefix)).at("address_prefix")
    })?;
    let length = message.prefix_len.map_or(0, |length| length.value);
    let net = u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(address, length).ok());
    match net {
        Some(net) => Ok(net.trunc()),
        None => refuse(format!("{length} is not a prefix length for {address}")).at("prefix_len"),
    }
}

pub(super) fn header_name(name: &str) -> Checked<HeaderName> {
    match HeaderName::from_bytes(name.as_bytes()) {
        // Framing and routing headers are the proxy's own.
        Ok(name) if name == http::header::HOST || name == http::header::TRANSFER_ENCODING => {
            refuse(format!("{name} cannot be changed by configuration"))
        }
        Ok(name) if name == http::header::CONTENT_LENGTH || name == http::header::CONNECTION => {
            refuse(format!("{name} cannot be changed by configuration"))
        }
        Ok(name) => Ok(name),
        Err(_) => refuse(format!("{name:?} is not a header name")),
    }
}

pub(super) fn header_add(message: &HeaderValueOption) -> Checked<HeaderAdd> {
    use header_value_option::HeaderAppendAction as Action;
    let Some(header) = &message.header else {
        return refuse("a header is needed").at("header");
    };
    let value = if header.value.is_empty() {
        HeaderText::Literal(header_value(&header.raw_value).at("header.raw_value")?)
    } else {
        let template = Template::parse(&header.value)
            .or_else(refuse)
            .at("header.value")?;
        match template.literal() {
            Some(text) => HeaderText::Literal(header_value(text.as_bytes()).at("header.value")?),
            None => HeaderText::Template(template),
        }
    };
    let mode = match Action::try_from(message.append_action) {
        // The old field, where it is set, decides.
        #[allow(deprecated)]
        Ok(Action::AppendIfExistsOrAdd) if !flag(message.append.as_ref(), true) => {
            AddMode::Overwrite
        }
        Ok(Action::AppendIfExistsOrAdd) => AddMode::Append,
        Ok(Action::AddIfAbsent) => AddMode::IfAbsent,
        Ok(Action::OverwriteIfExistsOrAdd) => AddMode::Overwrite,
        Ok(Action::OverwriteIfExists) => AddMode::OverwriteIfPresent,
        Err(_) => return refuse("an unknown action").at("append_action"),
    };
    Ok(HeaderAdd {
        name: header_name(&header.key).at("header.key")?,
        value,
        mode,
        keep_empty: message.keep_empty_value,
    })
}

fn header_value(bytes: &[u8]) -> Checked<HeaderValue> {
    HeaderValue::from_bytes(bytes).or_else(|_| refuse("not a header value"))
}
