//! A filter of one's own: registered, configured over xDS, overridden per route.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::google::protobuf as wkt;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use prost::{Message, Name};
use proxy::http::filters::extension::{Extension, Factory, Outcome, RouteConfig, State, register};
use proxy::http::filters::{FilterContext, ResponseContext};
use proxy::http::reply::LocalReply;
use support::peers::{application, get};
use support::{Proxy, any, filtered_chain, http_filter, listener, routes, static_cluster};
use xds::client::Kind;

/// Asks for a password in `x-password`, and says in the response who asked.
#[derive(Debug)]
struct Password(String);

/// Its configuration is a `google.protobuf.StringValue`: the password.
struct Passwords;

impl Factory for Passwords {
    fn message(&self) -> &'static str {
        "google.protobuf.StringValue"
    }

    fn filter(&self, config: &[u8]) -> Result<Arc<dyn Extension>, String> {
        let password = wkt::StringValue::decode(config).map_err(|error| error.to_string())?;
        if password.value.is_empty() {
            return Err("a password is needed".into());
        }
        Ok(Arc::new(Password(password.value)))
    }

    fn route(&self, config: &[u8]) -> Result<Arc<RouteConfig>, String> {
        let password = wkt::StringValue::decode(config).map_err(|error| error.to_string())?;
        Ok(Arc::new(password.value))
    }
}

impl Extension for Password {
    fn request<'a>(
        &'a self,
        context: &'a mut FilterContext<'_, '_>,
        route: Option<&'a RouteConfig>,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move {
            let wanted = route
                .and_then(|route| route.downcast_ref::<String>())
                .unwrap_or(&self.0);
            tokio::task::yield_now().await;
            match context.parts.headers.remove("x-password") {
                Some(given) if given.as_bytes() == wanted.as_bytes() => {
                    let state: Box<dyn Any + Send + Sync> = Box::new("knows");
                    Ok(Some(state))
                }
                _ => Err(Box::new(LocalReply {
                    status: StatusCode::UNAUTHORIZED,
                    body: "no".into(),
                    details: "password".into(),
                    ..LocalReply::default()
                })),
            }
        })
    }

    fn response(
        &self,
        context: &mut ResponseContext<'_, '_>,
        state: Option<State>,
        _route: Option<&RouteConfig>,
    ) {
        let who = state.and_then(|state| state.downcast::<&'static str>().ok());
        let who = who.map_or("a stranger", |who| *who);
        context.headers.insert(
            HeaderName::from_static("x-who"),
            HeaderValue::from_static(who),
        );
    }
}

fn text(value: &str) -> wkt::Any {
    wkt::Any {
        type_url: wkt::StringValue::type_url(),
        value: value.to_owned().encode_to_vec(),
    }
}

#[tokio::test]
async fn a_registered_filter_asks_answers_and_is_overridden_by_its_name() {
    register(&Passwords);
    let mut proxy = Proxy::new(None);
    let app = application().await;
    let cluster = static_cluster("app", &[app], support::Http::One);
    proxy.push(Kind::Cluster, vec![("app", any(&cluster))], &[]);
    let filter = http_filter("door", text("sesame"));
    let chain = filtered_chain("r", vec![filter]);
    let front = listener("front", vec![chain], false);
    proxy.push(Kind::Listener, vec![("front", any(&front))], &[]);
    let mut table = routes(
        "r",
        vec![("/other", "app"), ("/open", "app"), (".*", "app")],
    );
    let off = route::FilterConfig {
        disabled: true,
        ..Default::default()
    };
    let list = &mut table.virtual_hosts[0].routes;
    list[0]
        .typed_per_filter_config
        .insert("door".into(), text("abracadabra"));
    list[1]
        .typed_per_filter_config
        .insert("door".into(), any(&off));
    proxy.push(Kind::Routes, vec![("r", any(&table))], &[]);
    let address = proxy.address("front");

    let cases = [
        ("/get", "", 401, "x-who: a stranger"),
        (
            "/get",
            "x-password: abracadabra\r\n",
            401,
            "x-who: a stranger",
        ),
        ("/get", "x-password: sesame\r\n", 200, "x-who: knows"),
        ("/other", "x-password: sesame\r\n", 401, "x-who: a stranger"),
        ("/other", "x-password: abracadabra\r\n", 200, "x-who: knows"),
        ("/open", "", 200, "server: envoy"),
    ];
    for (path, header, status, line) in cases {
        let answer = get(address, path, header).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path} {header}: {answer}"
        );
        assert!(answer.contains(&format!("{line}\r\n")), "{answer}");
        assert_eq!(answer.contains("x-who"), path != "/open", "{answer}");
        assert!(!answer.contains("x-password"), "{answer}");
    }
}
