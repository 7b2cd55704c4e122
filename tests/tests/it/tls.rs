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

/// Returns the output of `magnetite doctor` with the variables `with`, and without those named in `without`.
async fn doctor(installation: &Installation, with: &[(&str, &str)], without: &[&str]) -> String {
    let mut command = installation.command(&["doctor"]);
    for name in without {
        command.env_remove(name);
    }
    let output = command.envs(with.iter().copied()).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Starts all roles, and waits until they have delivered an event.
pub(crate) async fn delivered_by_up(installation: &Installation) -> Role {
    let receiver = Receiver::ok().await;
    installation.endpoint("org_tls", &receiver.url()).await;
    let up = installation.start("up");
    up.wait_until_ready().await;
    let event = [
        "--event",
        "lead.completed",
        "--org",
        "org_tls",
        "--project",
        "p",
        "--lead",
        "l",
    ];
    installation.cli_ok(&[&["publish"][..], &event].concat()).await;
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

#[tokio::test]
async fn the_broker_is_reached_with_a_private_authority_and_a_client_certificate() {
    let (node, issuer) = (Node::start().await, Issuer::new(NAME));
    let tls_port = node.listen_with_tls(&issuer.server, &issuer.authority).await;
    for arguments in [
        &["add_user", "pipeline", "of no use"][..],
        &["clear_password", "pipeline"],
        &["set_permissions", "pipeline", ".*", ".*", ".*"],
    ] {
        node.ctl(arguments).await;
    }
    let mut installation = Installation::with("tls", node.url(), &[200], &[]).await;
    // `broker.tls.server_name` does not apply to the management API.
    let by_address = issuer.authority.issued_for("127.0.0.1");
    let management_port = node.manage_with_tls(&by_address, &issuer.authority).await;
    let url = format!("amqps://127.0.0.1:{tls_port}/%2f?auth_mechanism=external");
    let management_url = format!("https://guest:guest@127.0.0.1:{management_port}");
    let [roots, certificate, key] = ["roots.pem", "client.pem", "client.key"].map(|name| issuer.file(name));
    let settings = [
        ("MAGNETITE_BROKER__URL", url.as_str()),
        ("MAGNETITE_BROKER__MANAGEMENT_URL", &management_url),
        ("MAGNETITE_BROKER__TLS__ROOT_CERTIFICATES", &roots),
        ("MAGNETITE_BROKER__TLS__CERTIFICATE", &certificate),
        ("MAGNETITE_BROKER__TLS__KEY", &key),
        ("MAGNETITE_BROKER__TLS__SERVER_NAME", NAME),
    ];
    for (name, value) in settings {
        installation.set(name, value);
    }
    let up = delivered_by_up(&installation).await;
    let connections = node
        .ctl(&["-q", "list_connections", "user", "ssl", "auth_mechanism"])
        .await;
    assert!(connections.contains("pipeline\ttrue\tEXTERNAL"), "{connections}");
    let printed = doctor(&installation, &[], &[]).await;
    assert_says(&printed, "ok policies none does harm");
    up.terminate().await;

    let other = issuer.file("other.pem");
    let by_https_alone = [(settings[0].0, node.url()), (settings[2].0, &other)];
    let printed = doctor(&installation, &by_https_alone, &[settings[5].0]).await;
    assert_says(
        &printed,
        &format!("not checked: no answer from 127.0.0.1:{management_port}"),
    );
    assert_says(&printed, "of a private authority broker.tls.root_certificates");
    let printed = doctor(&installation, &[(settings[2].0, &other)], &[]).await;
    assert_says(
        &printed,
        "the broker's certificate is not issued by a trusted authority: name that in broker.tls.root_certificates",
    );
    let printed = doctor(&installation, &[], &[settings[5].0]).await;
    assert_says(
        &printed,
        "the broker's certificate is not for 127.0.0.1: correct the host in broker.url, or set broker.tls.server_name",
    );
    let printed = doctor(&installation, &[], &[settings[3].0, settings[4].0]).await;
    assert_says(
        &printed,
        "if the broker requires a client certificate, set broker.tls.certificate and broker.tls.key",
    );
    let printed = doctor(&installation, &[(settings[4].0, &roots)], &[]).await;
    assert_says(
        &printed,
        "broker.tls.key (in MAGNETITE_BROKER__TLS__KEY): expected PEM with the private key of the certificate",
    );

    let plain_port = installation.broker_port();
    let plain = format!("amqps://127.0.0.1:{plain_port}/%2f");
    let printed = doctor(&installation, &[(settings[0].0, &plain)], &[]).await;
    assert_says(
        &printed,
        "this port does not speak TLS: name the port of RabbitMQ's TLS listener",
    );
    let tls = [(
        settings[0].0,
        &*format!("amqp://guest:guest@127.0.0.1:{tls_port}/%2f"),
    )];
    let printed = doctor(
        &installation,
        &tls,
        &[settings[2].0, settings[3].0, settings[4].0, settings[5].0],
    )
    .await;
    assert_says(&printed, "this port expects TLS: use amqps:// in broker.url");
    let printed = doctor(&installation, &tls, &[]).await;
    assert_says(&printed, "expected nothing, since broker.url has no amqps://");
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
    assert_says(&refused(&url(&issuer.file("other.pem"))).await, "UnknownIssuer");
    assert_says(
        &refused(&format!("{}?sslmode=disable", server.url())).await,
        "no encryption",
    );
    installation.delete().await;
}
