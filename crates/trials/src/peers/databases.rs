//! Databases: a protocol of its own, one that pipelines, one whose server speaks first.

use std::net::SocketAddr;

use anyhow::ensure;
use testkit::ports;

use super::program::{as_nobody, find, folder, run, serve};
use crate::Outcome;
use crate::stage::{LOCAL, Protocol, Service, Stage};

async fn stage(at: SocketAddr) -> anyhow::Result<(Stage, String)> {
    let stage = Stage::start(vec![Service::new("database", Protocol::Tcp, at)]).await?;
    let front = stage.service("database")?.front.to_string();
    Ok((stage, front))
}

/// The program and its arguments, as nobody.
fn lowered<'a>(program: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [as_nobody(), vec![program], arguments.to_vec()].concat()
}

pub async fn postgres() -> anyhow::Result<Outcome> {
    let (Some(initdb), Some(postgres), Some(psql)) =
        (find("initdb"), find("postgres"), find("psql"))
    else {
        return Ok(Outcome::Skipped(
            "PostgreSQL is not installed (scripts/deps trials)".into(),
        ));
    };
    let (initdb, postgres) = (initdb.display().to_string(), postgres.display().to_string());
    let folder = folder()?;
    let data = folder.path().join("data").display().to_string();
    let at = SocketAddr::new(LOCAL, ports::free());
    let port = at.port().to_string();
    let init = lowered(
        &initdb,
        &[
            "-D",
            &data,
            "-U",
            "tester",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ],
    );
    run(init[0], &init[1..]).await?;
    let sockets = folder.path().display().to_string();
    let server = lowered(
        &postgres,
        &[
            "-D",
            &data,
            "-p",
            &port,
            "-c",
            "listen_addresses=127.0.0.1",
            "-k",
            &sockets,
            "-F",
        ],
    );
    let _server = serve(server[0].as_ref(), &server[1..], at).await?;
    let (_stage, front) = stage(at).await?;
    let ask = async |sql: &str| {
        run(
            &psql,
            &[
                "-h",
                "127.0.0.1",
                "-p",
                &front,
                "-U",
                "tester",
                "-d",
                "postgres",
                "-AtX",
                "-c",
                sql,
            ],
        )
        .await
    };
    ensure!(ask("select 6 * 7").await?.trim() == "42", "an answer");
    ask("create table t as select n, md5(n::text) as m from generate_series(1, 200000) n").await?;
    let rows = ask("select n, m from t order by n").await?;
    ensure!(
        rows.lines().count() == 200_000,
        "{} rows of 200000",
        rows.lines().count()
    );
    ensure!(
        rows.lines().next() == Some("1|c4ca4238a0b923820dcc509a6f75849b"),
        "the first row"
    );
    let sleeping = ask("set statement_timeout = 200; select pg_sleep(5)").await;
    ensure!(
        sleeping.is_err_and(|error| error.to_string().contains("statement timeout")),
        "a query that is cancelled"
    );
    Ok(Outcome::Good(
        "a query, 200000 rows, a cancelled statement".into(),
    ))
}

pub async fn redis() -> anyhow::Result<Outcome> {
    let (Some(server), Some(cli), Some(benchmark)) = (
        find("redis-server"),
        find("redis-cli"),
        find("redis-benchmark"),
    ) else {
        return Ok(Outcome::Skipped(
            "Redis is not installed (scripts/deps trials)".into(),
        ));
    };
    let at = SocketAddr::new(LOCAL, ports::free());
    let port = at.port().to_string();
    let _server = serve(
        &server,
        &[
            "--port",
            &port,
            "--save",
            "",
            "--appendonly",
            "no",
            "--bind",
            "127.0.0.1",
        ],
        at,
    )
    .await?;
    let (_stage, front) = stage(at).await?;
    let ask = async |words: &[&str]| {
        run(&cli, &[&["-h", "127.0.0.1", "-p", &front], words].concat()).await
    };
    ensure!(ask(&["set", "key", "value"]).await?.trim() == "OK", "SET");
    ensure!(ask(&["get", "key"]).await?.trim() == "value", "GET");
    ensure!(
        ask(&["eval", "return string.rep('x', 5000000)", "0"])
            .await?
            .trim()
            .len()
            == 5_000_000,
        "5 MB"
    );
    let told = run(
        &benchmark,
        &[
            "-h",
            "127.0.0.1",
            "-p",
            &front,
            "-n",
            "20000",
            "-P",
            "16",
            "-c",
            "20",
            "-q",
            "-t",
            "set,get,incr",
        ],
    )
    .await?;
    ensure!(
        told.matches("requests per second").count() == 3 && !told.contains("Error"),
        "{told}"
    );
    ensure!(
        ask(&["get", "counter:__rand_int__"]).await?.trim() == "20000",
        "every increment arrived once"
    );
    Ok(Outcome::Good(
        "5 MB, 60000 pipelined commands, every increment once".into(),
    ))
}

pub async fn mariadb() -> anyhow::Result<Outcome> {
    let install = find("mariadb-install-db").or_else(|| find("mysql_install_db"));
    let server = find("mariadbd").or_else(|| find("mysqld"));
    let client = find("mariadb").or_else(|| find("mysql"));
    let (Some(install), Some(server), Some(client)) = (install, server, client) else {
        return Ok(Outcome::Skipped(
            "MariaDB is not installed (scripts/deps trials)".into(),
        ));
    };
    let (install, server) = (install.display().to_string(), server.display().to_string());
    let folder = folder()?;
    let data = format!("--datadir={}", folder.path().join("data").display());
    let init = lowered(
        &install,
        &[
            "--no-defaults",
            &data,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ],
    );
    run(init[0], &init[1..]).await?;
    let at = SocketAddr::new(LOCAL, ports::free());
    let port = format!("--port={}", at.port());
    let socket = format!("--socket={}", folder.path().join("sock").display());
    let words = [
        "--no-defaults",
        &data,
        &port,
        &socket,
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=0",
    ];
    let words = lowered(&server, &words);
    let _server = serve(words[0].as_ref(), &words[1..], at).await?;
    let (_stage, front) = stage(at).await?;
    let port = format!("--port={front}");
    let ask = async |sql: &str| {
        run(
            &client,
            &[
                "--no-defaults",
                "-h",
                "127.0.0.1",
                &port,
                "-u",
                "root",
                "--protocol=tcp",
                "-N",
                "-B",
                "-e",
                sql,
            ],
        )
        .await
    };
    ensure!(ask("select 6 * 7").await?.trim() == "42", "an answer");
    let rows = ask("select seq, md5(seq) from mysql.help_topic a, (select 1 as seq) b limit 0; select length(repeat('x', 5000000))").await?;
    ensure!(rows.trim() == "5000000", "a long value: {rows}");
    let rows = ask("with recursive n as (select 1 as i union all select i + 1 from n where i < 900) select a.i, b.i from n a, n b limit 100000").await?;
    ensure!(
        rows.lines().count() == 100_000,
        "{} rows of 100000",
        rows.lines().count()
    );
    Ok(Outcome::Good(
        "the server's greeting first, 100000 rows".into(),
    ))
}
