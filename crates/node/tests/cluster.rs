//! The embedded cluster as its users meet it: `osm local` and kubectl. Needs root or user namespaces, nft and kubectl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Everything here happens within seconds; a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

const MANIFESTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {index: "one"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: dns, namespace: kube-system}
data: {hosts: "203.0.113.10 out.example.org"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers: [{name: before, image: busybox, command: [sh, -c, "echo prepared"]}]
      containers:
      - name: web
        image: python
        command: [python3, -u, -c]
        args:
        - |
          import socket
          s = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
          while True:
              c, a = s.accept(); c.recv(4096)
              body = open("/page/index").read() + " from $(NAME)\n"; print("served", flush=True)
              c.sendall(("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)).encode()); c.close()
        env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}}
        securityContext: {runAsUser: 1500, runAsNonRoot: true}
        volumeMounts: [{name: page, mountPath: /page}]
      volumes: [{name: page, configMap: {name: page}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}], ipFamilyPolicy: PreferDualStack}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: curl}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: curl, image: "curlimages/curl:8.5.0", command: [sleep, 365d]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: rocket}
spec: {containers: [{name: rocket, image: "acme/rocket:v1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec: {containers: [{name: crash, image: busybox, command: [sh, -c, "echo boom; exit 3"]}]}
"#;

/// A cluster in a folder of its own that is taken down at the end, come what may.
struct Cluster {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Cluster {
    /// `None` (with the reason printed) where it cannot run.
    fn up() -> Option<Self> {
        for program in ["nft", "kubectl", "python3", "curl"] {
            if Command::new("which")
                .arg(program)
                .output()
                .map_or(true, |o| !o.status.success())
            {
                println!("skipped: {program} is not installed");
                return None;
            }
        }
        if !nix::unistd::geteuid().is_root() {
            println!(
                "skipped: this test looks at processes and mounts of the whole machine as root"
            );
            return None;
        }
        let own = std::env::current_exe().expect("own path");
        let cluster = Self {
            folder: tempfile::tempdir().expect("folder"),
            program: own.parent()?.parent()?.join("examples/osm-local"),
        };
        let up = cluster.local(&["up", "--name", "test"]);
        assert!(up.status.success(), "{up:?}");
        assert!(text(&up).contains(&format!(
            "export KUBECONFIG={}",
            cluster.kubeconfig().display()
        )));
        Some(cluster)
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }

    fn local(&self, arguments: &[&str]) -> Output {
        Command::new(&self.program)
            .arg("local")
            .args(arguments)
            .env("OSM_LOCAL_DIR", self.dir())
            .output()
            .expect("osm local runs")
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        Command::new("kubectl")
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .output()
            .expect("kubectl runs")
    }

    /// Repeats a kubectl command until its output is right.
    fn until(&self, arguments: &[&str], right: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let output = self.kubectl(arguments);
            let out = text(&output);
            if output.status.success() && right(&out) {
                return out;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{arguments:?}: {output:?}\n{}",
                fs::read_to_string(self.dir().join("daemon.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn curl(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.kubectl(
            &[
                &["exec", "curl", "--", "curl", "-sS", "--max-time", "5"],
                arguments,
            ]
            .concat(),
        );
        (
            output.status.code(),
            text(&output) + &String::from_utf8_lossy(&output.stderr),
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.local(&["down"]);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Living processes whose command line or environment names the folder.
fn processes_of(dir: &Path) -> Vec<String> {
    let name = dir.display().to_string();
    let all = fs::read_dir("/proc")
        .expect("proc")
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    all.filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let line = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).ok()?)
                .replace('\0', " ");
            line.contains(&name).then_some(line)
        })
        .collect()
}

fn apply(cluster: &Cluster) {
    let file = cluster.folder.path().join("manifests.yaml");
    fs::write(&file, MANIFESTS).expect("manifests");
    let applied = cluster.kubectl(&["apply", "-f", &file.display().to_string()]);
    assert!(applied.status.success(), "{applied:?}");
}

#[test]
fn a_cluster_runs_pods_survives_a_kill_and_leaves_nothing() {
    let mounts = || fs::read_to_string("/proc/self/mounts").expect("mounts");
    let before = mounts();
    let Some(cluster) = Cluster::up() else { return };
    assert_eq!(mounts(), before, "the host's mounts are untouched");
    apply(&cluster);
    let ready = [
        "get",
        "pods",
        "-l",
        "app=web",
        "-o",
        "jsonpath={.items[*].status.containerStatuses[0].ready}",
    ];
    cluster.until(&ready, |out| out == "true true");
    cluster.until(
        &["get", "pod", "curl", "-o", "jsonpath={.status.phase}"],
        |out| out == "Running",
    );

    // Services by name, both families, balanced; live volumes; nothing where there is nobody.
    let hosts: std::collections::BTreeSet<_> = (0..20)
        .map(|_| cluster.curl(&["http://web.default.svc.cluster.local"]).1)
        .collect();
    assert_eq!(hosts.len(), 2, "both pods answer: {hosts:?}");
    assert!(
        hosts.iter().all(|h| h.starts_with("one from web-")),
        "{hosts:?}"
    );
    assert!(
        cluster
            .curl(&["-6", "http://web"])
            .1
            .starts_with("one from"),
        "IPv6"
    );
    assert_eq!(
        cluster.curl(&["http://nobody"]).0,
        Some(7),
        "a Service without endpoints refuses"
    );
    assert_eq!(cluster.curl(&["http://nosuch.example.org"]).0, Some(6));
    cluster.kubectl(&[
        "patch",
        "configmap",
        "page",
        "--type=merge",
        "-p",
        r#"{"data":{"index":"two"}}"#,
    ]);
    let begun = Instant::now();
    while !cluster.curl(&["http://web"]).1.starts_with("two") {
        assert!(
            begun.elapsed() < PATIENCE,
            "the volume follows its ConfigMap"
        );
    }

    // Logs, failures in the words of Kubernetes.
    assert_eq!(
        text(&cluster.kubectl(&["logs", "deploy/web", "-c", "before"])),
        "prepared\n"
    );
    assert!(text(&cluster.kubectl(&["logs", "deploy/web", "--tail=1"])).starts_with("served"));
    let waiting = |pod: &'static str| {
        [
            "get",
            "pod",
            pod,
            "-o",
            "jsonpath={.status.containerStatuses[0].state.waiting}",
        ]
    };
    let rocket = cluster.until(&waiting("rocket"), |out| out.contains("ImagePullBackOff"));
    assert!(
        rocket.contains("osm local image add acme/rocket PROGRAM"),
        "{rocket}"
    );
    cluster.until(&waiting("crash"), |out| {
        out.contains("CrashLoopBackOff") && out.contains("restarting failed container=crash")
    });
    assert_eq!(
        text(&cluster.kubectl(&["logs", "crash", "--previous"])),
        "boom\n"
    );
    assert!(
        cluster
            .local(&["image", "add", "acme/rocket", "sleep", "100"])
            .status
            .success()
    );
    cluster.until(
        &["get", "pod", "rocket", "-o", "jsonpath={.status.phase}"],
        |out| out == "Running",
    );

    // A host outside, by a name of the DNS ConfigMap.
    let mut outside = Command::new(&cluster.program)
        .args(["local", "outside", "--ip", "203.0.113.10", "--", "python3", "-c"])
        .arg("import socket\ns=socket.create_server(('',80))\nwhile 1:\n c,a=s.accept(); c.recv(999); c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\noutside'); c.close()")
        .env("OSM_LOCAL_DIR", cluster.dir())
        .spawn()
        .expect("osm local outside");
    let begun = Instant::now();
    while cluster.curl(&["http://out.example.org"]).1 != "outside" {
        assert!(
            begun.elapsed() < PATIENCE,
            "{:?}",
            cluster.curl(&["http://out.example.org"])
        );
    }
    outside.kill().expect("kill");
    outside.wait().expect("wait");

    // The daemon is killed: objects stay, pods run again.
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(cluster.dir().join("state.json")).expect("state"))
            .expect("JSON");
    let daemon = i32::try_from(state["daemon"]["pid"].as_i64().expect("pid")).expect("pid");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(daemon),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("kill");
    let restarts = [
        "get",
        "pods",
        "-l",
        "app=web",
        "-o",
        "jsonpath={range .items[*]}{.status.containerStatuses[0].ready}{.status.containerStatuses[0].restartCount} {end}",
    ];
    cluster.until(&restarts, |out| out == "true1 true1 ");
    cluster.until(&["get", "pod", "curl", "-o", "jsonpath={.status.containerStatuses[0].restartCount}{.status.containerStatuses[0].state.running}"], |out| out.starts_with("1{"));
    let begun = Instant::now();
    while !cluster.curl(&["http://web"]).1.starts_with("two from") {
        assert!(begun.elapsed() < PATIENCE);
    }

    let deleted = cluster.kubectl(&["delete", "pod", "curl", "crash", "--timeout=10s"]);
    assert!(deleted.status.success(), "{deleted:?}");
    let down = cluster.local(&["down"]);
    assert!(down.status.success(), "{down:?}");
    assert_eq!(processes_of(&cluster.dir()), Vec::<String>::new());
    assert_eq!(mounts(), before);
    let left: Vec<_> = fs::read_dir(cluster.dir())
        .map(|d| d.flatten().map(|e| e.file_name()).collect())
        .unwrap_or_default();
    assert_eq!(left, ["images.json"], "only the user's image table stays");
}

#[test]
fn clusters_live_side_by_side_and_a_port_in_use_is_named() {
    let Some(first) = Cluster::up() else { return };
    let Some(second) = Cluster::up() else { return };
    for cluster in [&first, &second] {
        let status = text(&cluster.local(&["status"]));
        assert!(
            status.contains("node1 Ready") && status.contains("Pods:       0 of 0 ready"),
            "{status}"
        );
    }
    let again = first.local(&["up"]);
    assert!(text(&again).contains("already running"), "{again:?}");
    let port = text(&first.local(&["status"]))
        .lines()
        .find_map(|l| {
            l.strip_prefix("API:        https://127.0.0.1:")
                .map(str::to_owned)
        })
        .expect("port");
    let third = tempfile::tempdir().expect("folder");
    let taken = Command::new(&first.program)
        .args(["local", "up", "--port", &port, "--dir"])
        .arg(third.path().join("c"))
        .output()
        .expect("up");
    let error = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(
        !taken.status.success()
            && error.contains(&format!(
                "--port {port} on 127.0.0.1: Address already in use"
            )),
        "{error}"
    );
    assert!(
        !third.path().join("c").exists(),
        "nothing is left of an attempt that could not begin"
    );
}
