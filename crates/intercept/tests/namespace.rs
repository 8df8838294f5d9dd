//! Real connections through the rules, in network namespaces of this test's own, with both back ends.
//!
//! Needs root and the programs `ip`, `nft`, `iptables-restore`, `ip6tables-restore`; says so and passes where they lack.
//! Two threads stand for two hosts: each has unshared its network namespace, a veth pair joins them. Sockets get their
//! owner from the file-system uid of the thread that makes them, so no other process is needed to be "the sidecar".

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use intercept::{Backend, BackendChoice, LocalProxyMode, Options, apply};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, gettid, setfsuid};

const POD: [&str; 2] = ["10.9.0.1/16", "fd09::1/64"];
const PEER: [&str; 4] = ["10.9.0.2/16", "10.9.1.2/16", "fd09::2/64", "fd09::12/64"];
const PATIENCE: Duration = Duration::from_secs(5);

/// Who opens the connection.
#[derive(Clone, Copy, Debug)]
enum Client {
    App,
    Sidecar,
    Peer,
}
use Client::{App, Peer, Sidecar};

type Row = (Client, &'static str, &'static str);

/// A thread in its own network namespace that connects where it is told and reports who answered.
struct Host {
    thread: i32,
    orders: Sender<Order>,
}

enum Order {
    Connect {
        uid: u32,
        to: SocketAddr,
        answer: Sender<String>,
    },
    Apply {
        options: Box<Options>,
        answer: Sender<String>,
    },
    Run {
        command: String,
        answer: Sender<String>,
    },
    Listen {
        on: SocketAddr,
        name: &'static str,
        answer: Sender<String>,
    },
}

impl Host {
    /// A namespace with loopback up and one listener per (port, name); a port with name `""` answers with its number.
    fn new(listeners: &'static [(u16, &'static str)]) -> Host {
        let (orders, received) = channel::<Order>();
        let (ready, started) = channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            run("ip link set lo up");
            for (port, name) in listeners {
                listen((Ipv6Addr::UNSPECIFIED, *port).into(), name);
            }
            ready.send(gettid().as_raw()).expect("the test waits");
            for order in received {
                match order {
                    Order::Connect { uid, to, answer } => {
                        setfsuid(Uid::from_raw(uid));
                        let _ = answer.send(who(to));
                        setfsuid(Uid::from_raw(0));
                    }
                    Order::Apply { options, answer } => {
                        let result = apply(&options);
                        let _ = answer.send(result.map_or_else(
                            |error| error.to_string(),
                            |backend| format!("{backend:?}"),
                        ));
                    }
                    Order::Run { command, answer } => {
                        let _ = answer.send(run(&command));
                    }
                    Order::Listen { on, name, answer } => {
                        listen(on, name);
                        let _ = answer.send(String::new());
                    }
                }
            }
        });
        Host {
            thread: started.recv().expect("the host starts"),
            orders,
        }
    }

    fn ask(&self, order: impl FnOnce(Sender<String>) -> Order) -> String {
        let (answer, answered) = channel();
        self.orders.send(order(answer)).expect("the host lives");
        answered.recv().expect("the host answers")
    }

    fn run(&self, command: &str) -> String {
        self.ask(|answer| Order::Run {
            command: command.to_owned(),
            answer,
        })
    }

    fn connect(&self, uid: u32, to: SocketAddr) -> String {
        self.ask(|answer| Order::Connect { uid, to, answer })
    }

    fn apply(&self, options: &Options) -> String {
        self.ask(|answer| Order::Apply {
            options: Box::new(options.clone()),
            answer,
        })
    }
}

/// Answers every connection with the name.
fn listen(on: SocketAddr, name: &'static str) {
    let listener = TcpListener::bind(on).expect("a free port");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

fn who(to: SocketAddr) -> String {
    let mut stream = match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(stream) => stream,
        Err(error) => return error.kind().to_string(),
    };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut name = String::new();
    match stream.read_to_string(&mut name) {
        Ok(_) => name,
        Err(error) => error.kind().to_string(),
    }
}

fn run(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", command])
        .output()
        .expect("a shell");
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A pod with a sidecar's listeners and an application on 8080 and 9999, and a host outside with every port the rows use.
fn pod_and_peer() -> (Host, Host) {
    let pod = Host::new(&[
        (15000, "admin"),
        (15001, "out"),
        (15003, "in"),
        (15010, "metrics"),
        (15901, "probe"),
        (15904, "health"),
        (8080, "app"),
        (9999, "app"),
    ]);
    let peer = Host::new(&[
        (80, "peer"),
        (443, "peer"),
        (9001, "peer"),
        (9017, "peer"),
        (9018, "peer"),
    ]);
    pod.run(&format!(
        "ip link add eth0 type veth peer name eth0 netns {}",
        peer.thread
    ));
    for (host, addresses) in [(&pod, &POD[..]), (&peer, &PEER[..])] {
        for address in addresses {
            host.run(&format!(
                "ip addr add {address} dev eth0 $(echo {address} | grep -q : && echo nodad)"
            ));
        }
        host.run("ip link set eth0 up");
    }
    // A second interface of the pod, as some CNIs give one.
    pod.run(&format!("ip link add net1 type veth peer name net1 netns {} && ip addr add 10.10.0.1/24 dev net1 && ip link set net1 up", peer.thread));
    peer.run("ip addr add 10.10.0.2/24 dev net1 && ip link set net1 up");
    // Applications that listen on nothing but the pod's address.
    for on in ["10.9.0.1:7070", "[fd09::1]:7070"].map(|on| on.parse().expect("an address")) {
        pod.ask(|answer| Order::Listen {
            on,
            name: "on pod IP",
            answer,
        });
    }
    (pod, peer)
}

fn check(
    backend: BackendChoice,
    what: &str,
    (pod, peer): &(Host, Host),
    options: Options,
    rows: &[Row],
) {
    let options = Options { backend, ..options };
    let expected = match backend {
        BackendChoice::Iptables => Backend::Iptables,
        _ => Backend::Nft,
    };
    // Twice: the second time must leave exactly what the first did.
    let mut rules = Vec::new();
    for time in ["first", "second"] {
        assert_eq!(
            pod.apply(&options),
            format!("{expected:?}"),
            "{what}, {time} time"
        );
        rules.push(match expected {
            Backend::Nft => pod.run("nft list table inet osm"),
            _ => pod.run("iptables -t nat -S; ip6tables -t nat -S"),
        });
    }
    assert_eq!(
        rules[0], rules[1],
        "{what}: applying twice changed the rules"
    );
    for (from, to, answer) in rows {
        let address: SocketAddr = to.parse().unwrap_or_else(|_| panic!("{to} is an address"));
        let got = match from {
            App => pod.connect(1000, address),
            Sidecar => pod.connect(1500, address),
            Peer => peer.connect(1000, address),
        };
        assert_eq!(&got, answer, "{backend:?}, {what}: {from:?} to {to}");
    }
}

fn options() -> Options {
    Options::default()
}

fn nets(nets: &[&str]) -> Vec<ipnet::IpNet> {
    nets.iter()
        .map(|net| net.parse().expect("a range"))
        .collect()
}

fn matrix(backend: BackendChoice) {
    let hosts = pod_and_peer();
    let defaults: &[Row] = &[
        (App, "10.9.0.2:80", "out"),
        (App, "[fd09::2]:80", "out"),
        (App, "127.0.0.1:8080", "app"),
        (App, "[::1]:8080", "app"),
        (App, "10.9.0.1:8080", "app"),
        (App, "[fd09::1]:8080", "app"),
        (Sidecar, "10.9.0.2:80", "peer"),
        (Sidecar, "[fd09::2]:80", "peer"),
        (Sidecar, "127.0.0.1:8080", "app"),
        (Sidecar, "[::1]:8080", "app"),
        (Sidecar, "127.0.0.1:7070", "connection refused"),
        // Through its own Service: the sidecar's outbound half must meet its inbound half.
        (Sidecar, "10.9.0.1:8080", "in"),
        (Sidecar, "[fd09::1]:8080", "in"),
        (Peer, "10.9.0.1:8080", "in"),
        (Peer, "[fd09::1]:8080", "in"),
        (Peer, "10.10.0.1:8080", "in"),
        (Peer, "10.9.0.1:15010", "metrics"),
        (Peer, "[fd09::1]:15901", "probe"),
        (Peer, "10.9.0.1:15904", "health"),
    ];
    check(backend, "defaults", &hosts, options(), defaults);
    check(
        backend,
        "IPT-03 outbound IP exclusion",
        &hosts,
        Options {
            outbound_ip_range_exclusion: nets(&["10.9.1.0/24", "10.9.1.2/32", "fd09::10/124"]),
            ..options()
        },
        &[
            (App, "10.9.0.2:80", "out"),
            (App, "10.9.1.2:80", "peer"),
            (App, "[fd09::2]:80", "out"),
            (App, "[fd09::12]:80", "peer"),
        ],
    );
    check(
        backend,
        "IPT-05 more than 15 excluded ports",
        &hosts,
        Options {
            outbound_port_exclusion: (9001..=9017)
                .map(|port| port.try_into().expect("a port"))
                .collect(),
            inbound_port_exclusion: (9983..=9999)
                .map(|port| port.try_into().expect("a port"))
                .collect(),
            ..options()
        },
        &[
            (App, "10.9.0.2:9001", "peer"),
            (App, "10.9.0.2:9017", "peer"),
            (App, "[fd09::2]:9017", "peer"),
            (App, "10.9.0.2:9018", "out"),
            (Peer, "10.9.0.1:9999", "app"),
            (Peer, "[fd09::1]:9999", "app"),
            (Peer, "10.9.0.1:8080", "in"),
        ],
    );
    check(
        backend,
        "IPT-08 inclusion, exclusion first",
        &hosts,
        Options {
            outbound_ip_range_inclusion: nets(&["10.9.0.0/16", "fd09::/124"]),
            outbound_ip_range_exclusion: nets(&["10.9.1.0/24"]),
            ..options()
        },
        &[
            (App, "10.9.0.2:80", "out"),
            (App, "10.9.1.2:80", "peer"),
            (App, "10.10.0.2:80", "peer"),
            (App, "[fd09::2]:80", "out"),
            (App, "[fd09::12]:80", "peer"),
        ],
    );
    check(
        backend,
        "inclusion of everything",
        &hosts,
        Options {
            outbound_ip_range_inclusion: nets(&["0.0.0.0/0", "::/0"]),
            ..options()
        },
        &[(App, "10.10.0.2:80", "out"), (App, "[fd09::12]:80", "out")],
    );
    check(
        backend,
        "IPT-09 interface exclusion",
        &hosts,
        Options {
            network_interface_exclusion: vec!["net+".parse().expect("a name")],
            ..options()
        },
        &[
            (App, "10.10.0.2:80", "peer"),
            (Peer, "10.10.0.1:8080", "app"),
            (App, "10.9.0.2:80", "out"),
            (Peer, "10.9.0.1:8080", "in"),
        ],
    );
    check(
        backend,
        "IPT-10 PodIP",
        &hosts,
        Options {
            local_proxy_mode: LocalProxyMode::PodIp,
            pod_ip: ["10.9.0.1", "fd09::1"]
                .map(|ip| ip.parse::<IpAddr>().expect("an address"))
                .into(),
            ..options()
        },
        &[
            (Sidecar, "127.0.0.1:7070", "on pod IP"),
            (Sidecar, "[::1]:7070", "on pod IP"),
            (Sidecar, "10.9.0.1:8080", "in"),
            // The sidecar's own port on loopback stays where it is.
            (Sidecar, "127.0.0.1:15000", "admin"),
            (App, "127.0.0.1:7070", "connection refused"),
            (App, "127.0.0.1:8080", "app"),
            (App, "10.9.0.2:80", "out"),
        ],
    );
    check(backend, "back to defaults", &hosts, options(), defaults);
}

fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let absent = ["ip", "nft", "iptables-restore", "ip6tables-restore"]
        .into_iter()
        .find(|program| {
            Command::new("sh")
                .args(["-c", &format!("command -v {program}")])
                .output()
                .is_ok_and(|found| !found.status.success())
        });
    if let Some(program) = absent {
        return Some(format!("{program} is not installed"));
    }
    let probe = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET))
        .join()
        .expect("the probe does not panic");
    probe
        .err()
        .map(|error| format!("no network namespace can be made: {error}"))
}

#[test]
fn interception_matrix_with_nft() {
    match missing() {
        Some(reason) => eprintln!("skipped: {reason}"),
        None => matrix(BackendChoice::Nft),
    }
}

#[test]
fn interception_matrix_with_iptables() {
    match missing() {
        Some(reason) => eprintln!("skipped: {reason}"),
        None => matrix(BackendChoice::Iptables),
    }
}
