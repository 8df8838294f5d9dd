//! Every fuzz target in one program. `OSMIUM_FUZZ` names the target, `OSMIUM_SEEDS` a folder its seeds are written to.

#![no_main]

mod format;
mod frames;
mod h1;
mod http;
mod names;
mod operations;
mod seeds;
mod wire;
mod xds;

use std::env;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// One target: what runs on bytes, and inputs to begin with.
pub struct Target {
    /// As `OSMIUM_FUZZ` and the corpus folders name it.
    pub name: &'static str,
    /// Must return on any bytes, and panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs that reach deep.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const TARGETS: &[Target] = &[
    xds::RESOURCE,
    xds::ROUTE,
    wire::CLIENT_HELLO,
    wire::FIRST_LINE,
    h1::REQUEST,
    h1::RESPONSE,
    h1::BODY,
    format::TEMPLATE,
    http::PATH,
    http::SANITIZE,
    names::CERTIFICATE,
    names::MATCHER,
    frames::FRAMES,
    operations::PROXY_PROTOCOL,
    operations::TRACE_CONTEXT,
    operations::BOOTSTRAP,
];

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fn chosen() -> &'static Target {
    CHOSEN.get_or_init(|| {
        let name = env::var("OSMIUM_FUZZ").unwrap_or_default();
        let found = TARGETS.iter().find(|target| target.name == name);
        found.unwrap_or_else(|| {
            for target in TARGETS {
                println!("{}", target.name);
            }
            std::process::exit(0)
        })
    })
}

fuzz_target!(
    init: {
        let target = chosen();
        if let Some(folder) = env::var_os("OSMIUM_SEEDS") {
            let folder = Path::new(&folder);
            fs::create_dir_all(folder).expect("the folder for seeds can be made");
            for (index, seed) in (target.seeds)().into_iter().enumerate() {
                fs::write(folder.join(format!("seed-{index:03}")), seed).expect("a seed can be written");
            }
            fs::write(folder.with_extension("dict"), seeds::dictionary()).expect("the dictionary can be written");
        }
    },
    |data: &[u8]| (chosen().run)(data)
);
