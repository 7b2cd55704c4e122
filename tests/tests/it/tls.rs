//! Tests RabbitMQ and PostgreSQL over TLS, with a private authority and a required client certificate, and
//! the possible mistakes in configuring that.

use e2e::{
    Certificates, Installation, Issued, Node, Postgres, Receiver, Role, SOON, shared_broker, wait_until,
};
use tempfile::TempDir;

/// The name that the server certificates are issued for. No name server knows it.
const NAME: &str = "magnetite.test";

/// A private authority, and the certificates that it has issued to the server and to the client.
struct Issuer {
    authority: Certificates,
    server: Issued,
    files: TempDir,
}

impl Issuer {
    fn new(server: &str) -> Self {
        let (authority, files) = (Certificates::new(), TempDir::new().unwrap());
        authority.write_pem(&files.path().join("roots.pem"));
        authority.issued_for("pipeline").write_pem(files.path(), "client");
        Certificates::new().write_pem(&files.path().join("other.pem"));
        Self {
            server: authority.issued_for(server),
            authority,
            files,
        }
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }
}

/// Returns the output of `magnetite doctor`; see [`printed`].
async fn doctor(installation: &Installation, with: &[(&str, &str)], without: &[&str]) -> String {
    printed(installation, &["doctor"], with, without).await
}

/// Returns the output of a command with the variables `with`, and without those named in `without`.
async fn printed(
    installation: &Installation,
    arguments: &[&str],
    with: &[(&str, &str)],
    without: &[&str],
) -> String {
    let mut command = installation.command(arguments);
    for name in without {
        command.env_remove(name);
    }
    let output = command.envs(with.iter().copied()).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

const PUBLISH: [&str; 9] = [
    "publish",
    "--event",
    "lead.completed",
    "--org",
    "org_tls",
    "--project",
    "p",
    "--lead",
    "l",
];

/// Starts all roles, and waits until they have delivered an event.
pub(crate) async fn delivered_by_up(installation: &Installation) -> Role {
    let receiver = Receiver::ok().await;
    installation.endpoint("org_tls", &receiver.url()).await;
    let up = installation.start("up");
    up.wait_until_ready().await;
    installation.cli_ok(&PUBLISH).await;
    wait_until("the event is delivered", SOON, || receiver.count() == 1).await;
    up
}

#[track_caller]
fn assert_says(printed: &str, words: &str) {
    assert!(
        printed
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .contains(words),
        "not {words:?}: {printed}"
    );
}

const URL: &str = "MAGNETITE_BROKER__URL";
const MANAGEMENT_URL: &str = "MAGNETITE_BROKER__MANAGEMENT_URL";
const ROOT_CERTIFICATES: &str = "MAGNETITE_BROKER__TLS__ROOT_CERTIFICATES";
const CERTIFICATE: &str = "MAGNETITE_BROKER__TLS__CERTIFICATE";
const KEY: &str = "MAGNETITE_BROKER__TLS__KEY";
const SERVER_NAME: &str = "MAGNETITE_BROKER__TLS__SERVER_NAME";

/// Adds the user that is in the client certificate. It cannot log in with a password.
async fn add_user_without_password(node: &Node) {
    for arguments in [
        &["add_user", "pipeline", "of no use"][..],
        &["clear_password", "pipeline"],
        &["set_permissions", "pipeline", ".*", ".*", ".*"],
    ] {
        node.ctl(arguments).await;
    }
}

/// Checks that doctor names each mistake in the settings `broker.tls`.
async fn assert_wrong_certificates_are_named(
    installation: &Installation,
    issuer: &Issuer,
    node: &Node,
    management_port: u16,
) {
    let [other, roots] = ["other.pem", "roots.pem"].map(|name| issuer.file(name));
    let by_https_alone = [(URL, node.url()), (ROOT_CERTIFICATES, other.as_str())];
    let printed = doctor(installation, &by_https_alone, &[SERVER_NAME]).await;
    assert_says(
        &printed,
        &format!("not checked: no answer from 127.0.0.1:{management_port}"),
    );
    assert_says(
        &printed,
        "broker.tls.root_certificates if a private authority issued it",
    );
    let printed = doctor(installation, &[(ROOT_CERTIFICATES, other.as_str())], &[]).await;
    assert_says(
        &printed,
        "the broker's certificate is not issued by a trusted authority: add the authority's certificate to broker.tls.root_certificates",
    );
    let printed = doctor(installation, &[], &[SERVER_NAME]).await;
    assert_says(
        &printed,
        "the broker's certificate is not valid for 127.0.0.1: correct the host in broker.url, or set broker.tls.server_name",
    );
    let printed = doctor(installation, &[], &[CERTIFICATE, KEY]).await;
    assert_says(
        &printed,
        "if the broker requires a client certificate, set broker.tls.certificate and broker.tls.key",
    );
    let printed = doctor(installation, &[(KEY, roots.as_str())], &[]).await;
    assert_says(
        &printed,
        "broker.tls.key (in MAGNETITE_BROKER__TLS__KEY): expected PEM with the private key of the certificate",
    );
}

/// Checks that doctor says when TLS is used with a port without it, or the reverse.
async fn assert_wrong_ports_are_named(installation: &Installation, tls_port: u16) {
    let plain_port = installation.broker_port();
    let plain = format!("amqps://127.0.0.1:{plain_port}/%2f");
    let printed = doctor(installation, &[(URL, plain.as_str())], &[]).await;
    assert_says(
        &printed,
        "this port does not speak TLS: set broker.url to the port of RabbitMQ's TLS listener",
    );
    let url = format!("amqp://guest:guest@127.0.0.1:{tls_port}/%2f");
    let without_tls = [(URL, url.as_str())];
    let tls_settings = [ROOT_CERTIFICATES, CERTIFICATE, KEY, SERVER_NAME];
    let printed = doctor(installation, &without_tls, &tls_settings).await;
    assert_says(&printed, "this port expects TLS: use amqps:// in broker.url");
    assert_says(&printed, "fix: correct scheme and port in broker.url");
    assert!(!printed.contains("apt-get"), "{printed}");
    for (with, without) in [(&without_tls, &tls_settings[..]), (&[(URL, plain.as_str())], &[])] {
        let printed = self::printed(installation, &PUBLISH, with, without).await;
        assert_says(&printed, "correct scheme and port in broker.url");
        assert!(!printed.contains("WARN"), "{printed}");
    }
    let printed = doctor(installation, &without_tls, &[]).await;
    assert_says(&printed, "expected no value unless broker.url has amqps://");
}

#[tokio::test]
async fn the_broker_is_reached_with_a_private_authority_and_a_client_certificate() {
    let (node, issuer) = (Node::start().await, Issuer::new(NAME));
    let tls_port = node.listen_with_tls(&issuer.server, &issuer.authority).await;
    add_user_without_password(&node).await;
    let mut installation = Installation::with("tls", node.url(), &[200], &[]).await;
    // `broker.tls.server_name` does not apply to the management API.
    let by_address = issuer.authority.issued_for("127.0.0.1");
    let management_port = node.manage_with_tls(&by_address, &issuer.authority).await;
    let url = format!("amqps://127.0.0.1:{tls_port}/%2f?auth_mechanism=external");
    let management_url = format!("https://guest:guest@127.0.0.1:{management_port}");
    for (name, value) in [
        (URL, url),
        (MANAGEMENT_URL, management_url),
        (ROOT_CERTIFICATES, issuer.file("roots.pem")),
        (CERTIFICATE, issuer.file("client.pem")),
        (KEY, issuer.file("client.key")),
        (SERVER_NAME, NAME.to_owned()),
    ] {
        installation.set(name, &value);
    }
    let up = delivered_by_up(&installation).await;
    let connections = node
        .ctl(&["-q", "list_connections", "user", "ssl", "auth_mechanism"])
        .await;
    assert!(connections.contains("pipeline\ttrue\tEXTERNAL"), "{connections}");
    let printed = doctor(&installation, &[], &[]).await;
    assert_says(&printed, "ok policies no policy harms");
    up.terminate().await;

    assert_wrong_certificates_are_named(&installation, &issuer, &node, management_port).await;
    assert_wrong_ports_are_named(&installation, tls_port).await;
    installation.delete().await;
}

#[tokio::test]
async fn the_database_is_reached_with_a_private_authority_and_a_client_certificate() {
    let (server, issuer) = (Postgres::start().await, Issuer::new("127.0.0.1"));
    server.require_tls(&issuer.server, &issuer.authority).await;
    let [roots, certificate, key] = ["roots.pem", "client.pem", "client.key"].map(|name| issuer.file(name));
    let url = |roots: &str| {
        format!(
            "{}?sslmode=verify-full&sslrootcert={roots}&sslcert={certificate}&sslkey={key}",
            server.url()
        )
    };
    let broker = shared_broker();
    let installation = Installation::with(
        "pg-tls",
        &broker,
        &[200],
        &[("MAGNETITE_DATABASE__URL", &url(&roots))],
    )
    .await;
    delivered_by_up(&installation).await.terminate().await;

    let refused = async |url: &str| doctor(&installation, &[("MAGNETITE_DATABASE__URL", url)], &[]).await;
    let printed = refused(&url(&issuer.file("other.pem"))).await;
    assert_says(&printed, "UnknownIssuer");
    assert_says(&printed, "fix: set sslrootcert in database.url");
    assert_eq!(printed.matches("set sslrootcert").count(), 1, "{printed}");
    let printed = refused(&url(&issuer.file("none.pem"))).await;
    assert_says(&printed, "none.pem, which sslrootcert in database.url names");
    let printed = refused(&format!("{}?sslmod=verify-full", server.url())).await;
    assert_says(&printed, "unknown parameter \"sslmod\"");
    assert!(!printed.contains("verify-full"), "{printed}");
    assert_says(&printed, "fix: correct the setting that is named");
    assert_says(
        &refused(&format!("{}?sslmode=disable", server.url())).await,
        "no encryption",
    );
    installation.delete().await;
}
