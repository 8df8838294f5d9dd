//! Random requests, made of the words that the tables are made of.

use super::Dice;
use super::tables::{HEADERS, HOSTS, PARAMETERS, SEGMENTS, VALUES};

const METHODS: [&str; 6] = ["GET", "GET", "GET", "POST", "PUT", "DELETE"];

/// A request line of the case files.
pub fn line(dice: &mut Dice) -> String {
    let version = *dice.pick(&["", "h2 "]);
    let method = *dice.pick(&METHODS);
    let mut line = format!("{version}{method} {}", target(dice));
    line.push_str(&format!(" | host: {}", host(dice)));
    for _ in 0..dice.below(3) {
        line.push_str(&format!(
            " | {}: {}",
            dice.pick(&HEADERS),
            dice.pick(&VALUES)
        ));
    }
    if dice.percent(10) {
        let more = [
            "cookie: a=1; b=2",
            "x-forwarded-for: 10.1.2.3",
            "x-forwarded-proto: https",
            "user-agent: generator",
            "accept-encoding: gzip",
            "te: trailers",
        ];
        line.push_str(&format!(" | {}", dice.pick(&more)));
    }
    if method != "GET" && dice.percent(50) {
        line.push_str(&format!(" > *{}", 1 + dice.below(3000)));
    }
    line
}

fn target(dice: &mut Dice) -> String {
    let mut path = String::new();
    for _ in 0..=dice.below(3) {
        let mut segment = (*dice.pick(&SEGMENTS)).to_owned();
        if dice.percent(8) {
            segment = segment.to_uppercase();
        }
        path.push_str(&format!("/{segment}"));
    }
    if dice.percent(12) {
        let end = *dice.pick(&["/", "x", "/x", ".html", "//", "-1"]);
        path.push_str(end);
    }
    if dice.percent(30) {
        path.push_str(&format!(
            "?{}={}",
            dice.pick(&PARAMETERS),
            dice.pick(&VALUES)
        ));
        if dice.percent(30) {
            path.push_str(&format!(
                "&{}={}",
                dice.pick(&PARAMETERS),
                dice.pick(&VALUES)
            ));
        }
    }
    path
}

fn host(dice: &mut Dice) -> String {
    let wildcard = *dice.pick(&["www", "x.y", "a"]);
    let mut host = dice.pick(&HOSTS).replace('*', wildcard);
    if dice.percent(10) {
        host = host.to_uppercase();
    }
    if dice.percent(15) && !host.contains(':') {
        let port = *dice.pick(&[":80", ":8080", ":443"]);
        host.push_str(port);
    }
    host
}
