//! The programs of the bookstore demo, as processes on loopback, without a mesh: they must do what the manifests' users expect.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A program of the demo.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    port: u16,
}

const SUCCESS: &str = "MAESTRO! THIS TEST SUCCEEDED!";

impl Program {
    fn start(role: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_osm-apps"))
            .args([role, "--port=0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("osm-apps");
        let stdout = child.stdout.take().expect("its output");
        let mut lines = BufReader::new(stdout).lines();
        let first = lines.next().expect("a first line").expect("text");
        let port = first.rsplit(' ').next().and_then(|port| port.parse().ok());
        Self {
            child,
            lines,
            port: port.unwrap_or_else(|| panic!("no port in {first:?}")),
        }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Reads its output until it says this.
    fn says(&mut self, text: &str) {
        let found = self
            .lines
            .by_ref()
            .find(|line| line.as_ref().is_ok_and(|line| line.contains(text)));
        found
            .unwrap_or_else(|| panic!("never says {text:?}"))
            .expect("text");
    }

    fn get(&self, path: &str, headers: &str) -> (String, String) {
        self.request(&format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
        ))
    }

    /// Head and body of the answer to a request.
    fn request(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address()).expect("connect");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("limit");
        stream.write_all(request.as_bytes()).expect("write");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        (head.to_owned(), body.to_owned())
    }

    fn raw(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/raw", "").1).expect("JSON")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Database, warehouse and store.
fn shop(identity: &str) -> (Program, Program, Program) {
    let database = Program::start("database", &[]);
    let warehouse = Program::start("bookwarehouse", &["--database", &database.address()]);
    let arguments = [
        "--bookwarehouse-address",
        &warehouse.address(),
        "--identity",
        identity,
    ];
    let store = Program::start("bookstore", &arguments);
    (database, warehouse, store)
}

#[test]
fn books_are_bought_counted_by_version_restocked_and_stored() {
    let (_database, mut warehouse, store) = shop("bookstore-v2");
    let address = store.address();
    let arguments = [
        "--bookstore-address",
        &address,
        "--interval=0.01",
        "--min-success=5",
    ];
    let mut buyer = Program::start("bookbuyer", &arguments);
    buyer.says(SUCCESS);
    warehouse.says(SUCCESS);
    let raw = buyer.raw();
    assert!(raw["booksBoughtV2"].as_u64() >= Some(5), "{raw}");
    assert_eq!(
        (raw["booksBoughtV1"].as_u64(), raw["failedRounds"].as_u64()),
        (Some(0), Some(0))
    );
    assert_eq!(
        buyer.get("/last", "").1.trim(),
        r#"{"books-bought":200,"buy-a-book":200,"identity":"bookstore-v2"}"#
    );
    assert!(store.raw()["booksSold"].as_u64() >= Some(5));
    assert!(warehouse.raw()["totalBooks"].as_u64() >= Some(3));
    let (head, page) = buyer.get("/", "");
    assert!(
        head.starts_with("HTTP/1.1 200") && page.contains("bookbuyer: books bought"),
        "{head}{page}"
    );
}

#[test]
fn a_thief_that_finds_the_door_closed_succeeds_with_nothing() {
    // A port that was free a moment ago: nobody listens there.
    let free = Program::start("database", &[]).address();
    let mut thief = Program::start(
        "bookthief",
        &["--bookstore-address", &free, "--interval=0.01"],
    );
    thief.says(SUCCESS);
    assert_eq!(thief.raw()["booksStolen"], 0);
    assert_eq!(
        thief.get("/last", "").1.trim(),
        r#"{"books-bought":0,"buy-a-book":0,"identity":null}"#
    );
}

#[test]
fn the_restocking_belongs_to_the_trace_of_the_purchase() {
    let (_database, mut warehouse, store) = shop("bookstore-v1");
    let trace = "x-b3-traceid: 80f198ee56343ba864fe8b2a57d3eff7\r\ntraceparent: 00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01\r\nx-request-id: r1\r\ncookie: private\r\n";
    let (head, _) = store.get("/buy-a-book/new", trace);
    assert!(
        head.contains("identity: bookstore-v1") && head.contains("booksbought: 1"),
        "{head}"
    );
    warehouse.says("total so far: 1");
    let traces: serde_json::Value =
        serde_json::from_str(&warehouse.get("/traces", "").1).expect("JSON");
    assert_eq!(
        traces,
        serde_json::json!([{
            "x-b3-traceid": "80f198ee56343ba864fe8b2a57d3eff7",
            "traceparent": "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01",
            "x-request-id": "r1"
        }])
    );
}

#[test]
fn the_store_and_the_warehouse_refuse_what_is_no_number_of_books() {
    let (_database, warehouse, store) = shop("bookstore-v1");
    let post = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    for (path, body, status) in [
        ("/books-bought", "42", "200"),
        ("/books-bought", "many", "400"),
        ("/nowhere", "1", "404"),
    ] {
        let (head, _) = store.request(&post(path, body));
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{path} {body}: {head}"
        );
    }
    assert_eq!(store.raw()["booksSold"], 42);
    for (body, status) in [("2", "200"), ("-2", "400"), ("", "400")] {
        let (head, _) = warehouse.request(&post("/restock-books", body));
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{body}: {head}"
        );
    }
    assert_eq!(warehouse.raw()["totalBooks"], 2);
}
