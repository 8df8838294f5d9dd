//! Format strings against a made-up exchange.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;

use super::*;
use crate::matcher::RequestView;

struct Exchange {
    request: HeaderMap,
    response: HeaderMap,
    began: Instant,
}

impl Exchange {
    fn new() -> Exchange {
        let headers = |list: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in list {
                map.append(*name, value.parse().unwrap());
            }
            map
        };
        Exchange {
            request: headers(&[("x-a", "one"), ("x-a", "two"), ("user-agent", "curl/8")]),
            response: headers(&[("x-r", "answer"), ("grpc-status", "3")]),
            began: Instant::now(),
        }
    }
}

impl Facts for Exchange {
    fn request(&self) -> Option<RequestView<'_>> {
        Some(RequestView {
            method: "GET",
            path_and_query: "/path?a=1&b=2",
            authority: "web.ns:80",
            scheme: "http",
            headers: &self.request,
        })
    }

    fn response(&self) -> Option<&HeaderMap> {
        Some(&self.response)
    }

    fn started(&self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(1_700_000_000, 123_456_789))
    }

    fn moment(&self, moment: Moment) -> Option<Instant> {
        match moment {
            Moment::RequestBegan => Some(self.began),
            Moment::AnswerBegan => Some(self.began + Duration::from_micros(1_500)),
            Moment::Over => Some(self.began + Duration::from_millis(7)),
            _ => None,
        }
    }

    fn address(&self, address: Address) -> Option<SocketAddr> {
        match address {
            Address::Remote => Some("10.0.0.9:4711".parse().unwrap()),
            Address::Local => Some("[fd00::1]:80".parse().unwrap()),
            _ => None,
        }
    }

    fn text(&self, text: Text) -> Option<Cow<'_, str>> {
        match text {
            Text::Protocol => Some("HTTP/1.1".into()),
            Text::Details => Some("via upstream".into()),
            _ => None,
        }
    }

    fn number(&self, number: Number) -> Option<i64> {
        (number == Number::ResponseCode).then_some(200)
    }
}

#[test]
fn commands_are_answered_as_envoy_answers_them() {
    let cases = [
        ("", ""),
        ("plain", "plain"),
        ("100%%", "100%"),
        ("%%%PROTOCOL%%%", "%HTTP/1.1%"),
        ("%RESPONSE_CODE% %PROTOCOL%", "200 HTTP/1.1"),
        ("%RESPONSE_CODE_DETAILS%", "via_upstream"),
        ("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "via upstream"),
        ("%REQ(X-A)%", "one"),
        ("%REQ(x-a):2%", "on"),
        ("%REQ(X-NONE?:PATH)%", "/path?a=1&b=2"),
        ("%REQ(:METHOD)% %REQ(:AUTHORITY)%", "GET web.ns:80"),
        ("%REQ(X-NONE)%|", "-|"),
        ("%RESP(X-R)% %RESP(:status)%", "answer 200"),
        ("%TRAILER(X-R)%", "-"),
        (
            "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%",
            "InvalidArgument INVALID_ARGUMENT 3",
        ),
        ("%QUERY_PARAM(b)%", "2"),
        ("%PATH(NQ)% %PATH(WQ:PATH)%", "/path /path?a=1&b=2"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.0.0.9:4711"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.9"),
        ("%DOWNSTREAM_REMOTE_PORT%", "4711"),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", "[fd00::1]:80"),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "fd00::1"),
        ("%UPSTREAM_HOST%", "-"),
        ("%DURATION% %RESPONSE_DURATION% %REQUEST_DURATION%", "7 1 -"),
        ("%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%", "1500"),
        ("%START_TIME%", "2023-11-14T22:13:20.123Z"),
        ("%START_TIME(%s.%3f)%", "1700000000.123"),
        (
            "%START_TIME(%Y/%m/%d (%a) %H:%M:%S %f)%",
            "2023/11/14 (Tue) 22:13:20 123456789",
        ),
        (
            "%START_TIME(%e %b %I%p %E6S %j)%",
            "14 Nov 10PM 20.123456 318",
        ),
        ("%ENVIRONMENT(NO_SUCH_VARIABLE)%", "-"),
    ];
    let exchange = Exchange::new();
    for (text, expected) in cases {
        let template = Template::parse(text).unwrap();
        assert_eq!(
            template.format(&exchange, Missing::Dash),
            expected,
            "{text}"
        );
    }
    let absent = Template::parse("a%REQ(X-NONE)%b%UPSTREAM_HOST%").unwrap();
    assert_eq!(absent.format(&exchange, Missing::Empty), "ab");
}

#[test]
fn wrong_format_strings_are_refused() {
    let cases = [
        ("50% of it", "incorrect command"),
        ("%", "incorrect command"),
        ("%protocol%", "incorrect command"),
        ("%REQ(X%", "incorrect command"),
        ("%REQ(X):a%", "incorrect command"),
        ("%REQ(X):99999999999999999999999%", "incorrect command"),
        ("%NO_SUCH%", "%NO_SUCH% is not supported"),
        ("%REQ%", "%REQ% is not supported"),
        ("%REQ()%", "%REQ()% is not supported"),
        ("%REQ(a b)%", "is not supported"),
        ("%PROTOCOL:3%", "takes no length"),
        ("%PROTOCOL(x)%", "is not supported"),
        ("%START_TIME(%Q)%", "%Q of a time"),
        ("%START_TIME(%n)%", "%n of a time"),
        ("%COMMON_DURATION(DS_RX_BEG)%", "is not supported"),
        ("%DYNAMIC_METADATA(a)%", "is not supported"),
    ];
    for (text, reason) in cases {
        let error = Template::parse(text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn what_is_known_early_is_text() {
    assert_eq!(Template::parse("a%%").unwrap().literal(), Some("a%"));
    assert!(Template::parse("%HOSTNAME%").unwrap().literal().is_some());
    assert!(Template::parse("%PROTOCOL%").unwrap().single().is_some());
    assert!(Template::parse("%PROTOCOL% ").unwrap().single().is_none());
}

#[test]
fn a_cut_never_splits_a_character() {
    let mut exchange = Exchange::new();
    exchange.request.insert(
        "x-a",
        http::HeaderValue::from_bytes("héé".as_bytes()).unwrap(),
    );
    for (limit, expected) in [(0, ""), (1, "h"), (2, "h"), (3, "hé"), (99, "héé")] {
        let template = Template::parse(&format!("%REQ(x-a):{limit}%")).unwrap();
        assert_eq!(template.format(&exchange, Missing::Empty), expected);
    }
}

#[test]
fn no_text_makes_the_parser_panic() {
    let alphabet = [
        "%",
        "(",
        ")",
        ":",
        "REQ",
        "START_TIME",
        "E3S",
        "1",
        "é",
        "?",
        "%%",
        "PATH",
    ];
    let mut state = 88_172_645_463_325_252u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push_str(alphabet[(state % alphabet.len() as u64) as usize]);
        }
        if let Ok(template) = Template::parse(&text) {
            template.format(&Exchange::new(), Missing::Dash);
        }
    }
}
