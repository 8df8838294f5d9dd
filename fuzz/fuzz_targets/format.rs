//! Envoy's format strings, of access logs and header values.

use proxy::format::{Facts, Missing, Template};

use crate::Target;

/// A format string.
pub const TEMPLATE: Target = Target {
    name: "format",
    run: |data| {
        struct Nothing;
        impl Facts for Nothing {}
        let Ok(text) = std::str::from_utf8(data) else {
            return;
        };
        if let Ok(template) = Template::parse(text) {
            let mut out = String::new();
            template.write(&Nothing, Missing::Dash, &mut out);
            assert!(!text.is_empty() || out.is_empty());
        }
    },
    seeds: || {
        [
            "%REQ(X-A?:PATH):10% %START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
            "%DURATION% %% %RESP(a)% %BYTES_SENT%",
        ]
        .map(Into::into)
        .to_vec()
    },
};
