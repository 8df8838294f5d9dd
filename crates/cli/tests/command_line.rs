//! The command where there is no cluster: every mistake is one line on stderr, `Error: …`, and status 1.

use std::path::Path;
use std::process::{Command, Output};

fn osm(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_osm"));
    command.args(arguments).env("HOME", home);
    for name in [
        "KUBECONFIG",
        "OSM_CONFIG",
        "OSM_NAMESPACE",
        "KUBERNETES_SERVICE_HOST",
    ] {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        status.code().expect("an exit code"),
        text(stdout),
        text(stderr),
    )
}

#[test]
fn mistakes_are_one_line_and_status_1() {
    let home = tempfile::tempdir().expect("a folder");
    for (arguments, error) in [
        (&["instal"][..], "Error: unrecognized subcommand 'instal'"),
        (
            &["install", "--set", "foo"],
            "Error: invalid format for --set: key \"foo\" has no value",
        ),
        (
            &["install", "--set", "osm.enableEgres=true"],
            "Error: values don't meet the specifications of the schema(s) in the following chart(s): osm: osm: Additional property enableEgres is not allowed",
        ),
        (
            &["install", "--mesh-name", "Bad_Name!"],
            "Error: invalid mesh name \"Bad_Name!\": must be an RFC 1123 label",
        ),
        (
            &["install", "--timeout", "5"],
            "Error: invalid value '5' for '--timeout <TIMEOUT>': time: missing unit in duration \"5\"",
        ),
        (
            &["install", "--osm-chart-path", "/nonexistent"],
            "Error: error loading chart for installation: /nonexistent: No such file or directory",
        ),
        (
            &["namespace", "add"],
            "Error: the following required arguments were not provided",
        ),
        (
            &["mesh", "list"],
            "Error: no usable kubeconfig: failed to read kubeconfig from",
        ),
        (
            &["metrics", "enable"],
            "Error: the following required arguments were not provided",
        ),
        (
            &["policy", "check-pods", "a/b/c", "d"],
            "Error: Pod name should be of the form <namespace/pod>, or <pod> for default namespace, got \"a/b/c\"",
        ),
        (
            &["proxy", "get", "stats", "curl"],
            "Error: no usable kubeconfig: failed to read kubeconfig from",
        ),
    ] {
        let (status, stdout, stderr) = run(&mut osm(home.path(), arguments));
        assert_eq!(status, 1, "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert!(stderr.starts_with(error), "{arguments:?}: {stderr}");
    }
}

#[test]
fn an_api_server_that_is_not_there_is_named() {
    let home = tempfile::tempdir().expect("a folder");
    let free =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("a port that nobody listens on any more");
    let kubeconfig = home.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: \"http://{address}\"}}}}]\n\
         users: [{{name: c, user: {{}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: c}}}}]\n"
    );
    std::fs::write(&kubeconfig, text).expect("a file");
    let (status, _, stderr) =
        run(osm(home.path(), &["mesh", "list"]).env("KUBECONFIG", &kubeconfig));
    assert_eq!(status, 1);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let expected = format!("Error: Kubernetes API at http://{address}/ cannot be used: ");
    assert!(
        stderr.starts_with(&expected) && stderr.contains("refused"),
        "{stderr}"
    );
}

#[test]
fn inst_17_the_namespace_comes_from_flag_environment_file_and_default_in_this_order() {
    let home = tempfile::tempdir().expect("a folder");
    let env = |namespace: &str| {
        format!(
            "---\ninstall:\n  kind: self-hosted\n  distribution: \"\"\n  namespace: {namespace}\n"
        )
    };
    assert_eq!(run(&mut osm(home.path(), &["env"])).1, env("osm-system"));
    let folder = home.path().join(".osm");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(
        folder.join("config.yaml"),
        "install:\n  namespace: from-file\n",
    )
    .expect("a file");
    assert_eq!(run(&mut osm(home.path(), &["env"])).1, env("from-file"));
    let with =
        |arguments: &[&str]| run(osm(home.path(), arguments).env("OSM_NAMESPACE", "from-env")).1;
    assert_eq!(with(&["env"]), env("from-env"));
    assert_eq!(
        with(&["env", "--osm-namespace", "from-flag"]),
        env("from-flag")
    );
    std::fs::write(folder.join("config.yaml"), "install:\n  kind: managed\n").expect("a file");
    let (status, _, stderr) = run(&mut osm(home.path(), &["install"]));
    assert_eq!(status, 1);
    assert!(stderr.contains("managed by the provider"), "{stderr}");
}
