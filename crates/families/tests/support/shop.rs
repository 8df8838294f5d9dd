//! The cluster of most scenarios: a shop with a web server, two clients and a stranger.

use serde_json::{Value, json};

use super::{
    World,
    call::{Answer, Answer::*, call, get, only},
    http_rules,
};

/// Address of the web Service.
pub const WEB: &str = "10.96.0.10";

/// Two clients, one web server of two pods, SMI mode.
pub fn shop() -> World {
    let mut world = World::new();
    world
        .namespace("shop")
        .namespace("other")
        .pod("shop/client1", "client1", "10.244.0.1")
        .pod("shop/client2", "client2", "10.244.0.2")
        .pod("other/stranger", "client1", "10.244.0.3")
        .pod("shop/web-0", "web", "10.244.0.10")
        .service("shop/web", WEB, http_port(), &[("web-0", "10.244.0.10")]);
    world
}

pub fn http_port() -> Value {
    json!([{"port": 80, "name": "http-web", "targetPort": 8080}])
}

pub fn served() -> Answer {
    Served("web-0".into())
}

pub fn web(world: &World, client: &str, path: &str) -> Answer {
    only(call(&world.mesh(), client, WEB, 80, &get("web.shop", path)))
}

pub fn all_of(world: &mut World) {
    world
        .route_group("shop/all", json!([{"name": "all"}]))
        .target("shop/web", "web", &["shop/client1"], http_rules(&["all"]));
}
