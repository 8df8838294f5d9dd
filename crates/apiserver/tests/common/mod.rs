//! A server in process, with a node that echoes.

use std::sync::Arc;
use std::time::Duration;

use apiserver::backend::{
    BackendError, BoxFuture, ByteStream, Connection, ExecRequest, ExecSession, Exit, LogRequest,
    PodBackend, PortRequest,
};
use apiserver::{ClientUser, Config, ServerHandle};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A node whose containers echo: `cat` copies its input, `exit N` ends with N, anything else prints itself.
struct Echo;

async fn run(
    command: Vec<String>,
    mut input: tokio::io::DuplexStream,
    mut output: tokio::io::DuplexStream,
) -> Exit {
    match command
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["cat"] => drop(tokio::io::copy(&mut input, &mut output).await),
        ["exit", code] => {
            return Exit {
                code: code.parse().unwrap_or(1),
            };
        }
        other => drop(output.write_all(other.join(" ").as_bytes()).await),
    }
    Exit { code: 0 }
}

impl PodBackend for Echo {
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<ExecSession, BackendError>> {
        Box::pin(async move {
            let (stdin, input) = tokio::io::duplex(1024);
            let (output, stdout) = tokio::io::duplex(1024);
            let ended = tokio::spawn(run(request.command, input, output));
            Ok(ExecSession {
                stdin: Some(Box::new(stdin)),
                stdout: Some(Box::new(stdout)),
                stderr: None,
                resize: None,
                exit: Box::pin(async move {
                    ended
                        .await
                        .map_err(|e| BackendError::Internal(e.to_string()))
                }),
            })
        })
    }

    fn logs(&self, request: LogRequest) -> BoxFuture<'_, Result<ByteStream, BackendError>> {
        let text = format!(
            "{} tail {:?}\n",
            request.target.container, request.tail_lines
        );
        Box::pin(async move {
            Ok(Box::pin(futures::stream::once(async { Ok(text.into()) })) as ByteStream)
        })
    }

    fn port_forward(
        &self,
        request: PortRequest,
    ) -> BoxFuture<'_, Result<Box<dyn Connection>, BackendError>> {
        Box::pin(async move {
            let (near, mut far) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let mut buffer = [0; 64];
                let n = far.read(&mut buffer).await.unwrap_or(0);
                let text = format!(
                    "{} got {}",
                    request.port,
                    String::from_utf8_lossy(&buffer[..n])
                );
                let _ = far.write_all(text.as_bytes()).await;
            });
            Ok(Box::new(near) as Box<dyn Connection>)
        })
    }

    fn dial(
        &self,
        address: std::net::SocketAddr,
    ) -> BoxFuture<'_, std::io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            Ok(Box::new(tokio::net::TcpStream::connect(address).await?) as Box<dyn Connection>)
        })
    }
}

pub struct Cluster {
    dir: tempfile::TempDir,
    handle: ServerHandle,
}

impl Cluster {
    pub async fn start() -> Self {
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let dir = tempfile::tempdir().unwrap();
        let handle = Self::server(dir.path()).await;
        Self { dir, handle }
    }

    async fn server(dir: &std::path::Path) -> ServerHandle {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        apiserver::start(Config {
            data_dir: dir.to_owned(),
            listeners: vec![listener],
            extra_sans: Vec::new(),
            service_cidrs: vec![
                "10.96.0.0/16".parse().unwrap(),
                "fd96::/112".parse().unwrap(),
            ],
            advertise: None,
            backend: Some(Arc::new(Echo)),
        })
        .await
        .unwrap()
    }

    pub async fn restart(self) -> Self {
        self.handle.shutdown().await;
        let handle = Self::server(self.dir.path()).await;
        Self {
            dir: self.dir,
            handle,
        }
    }

    pub fn kubeconfig(&self) -> String {
        let url = format!("https://{}", self.handle.addresses()[0]);
        self.handle.kubeconfig(&url, &ClientUser::admin()).unwrap()
    }

    pub async fn client(&self) -> Client {
        connect(Kubeconfig::from_yaml(&self.kubeconfig()).unwrap()).await
    }

    /// A file that kubectl can read.
    pub fn file(&self, name: &str, content: &Value) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content.to_string()).unwrap();
        path.display().to_string()
    }

    /// Whether kubectl succeeded and what it printed; nothing if there is none.
    pub async fn kubectl(&self, arguments: &[&str]) -> Option<(bool, String)> {
        let path = self.dir.path().join("admin.conf");
        std::fs::write(&path, self.kubeconfig()).unwrap();
        let mut command = tokio::process::Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(&path)
            .arg("--cache-dir")
            .arg(self.dir.path().join("cache"))
            .args(arguments);
        let output = tokio::time::timeout(Duration::from_secs(60), command.output())
            .await
            .ok()?
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        Some((output.status.success(), text))
    }
}

pub async fn connect(kubeconfig: Kubeconfig) -> Client {
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

pub fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Code and text of a refusal.
pub fn message<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("in time")
}

pub fn pod(name: &str) -> Pod {
    typed(
        json!({"metadata": {"name": name}, "spec": {"nodeName": "node1", "containers": [{"name": "c", "image": "i"}]}}),
    )
}

/// The default account that a controller makes in a whole cluster.
pub async fn account(client: &Client) {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    accounts
        .create(
            &PostParams::default(),
            &typed(json!({"metadata": {"name": "default"}})),
        )
        .await
        .unwrap();
}
