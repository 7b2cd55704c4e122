//! Tests the broker user of a publisher, who may write events and nothing else.

use std::{env, fs, os::unix::fs::PermissionsExt as _};

use bytes::Bytes;
use e2e::{Amqp, Installation, Node, Receiver, SOON, due_headers, event, root, wait_until};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions},
    options::{QueueDeclareOptions, QueuePurgeOptions},
    types::FieldTable,
};
use producer::{Producer, Serialized};
use tokio::process::Command;

const USER: &str = "pipeline";

/// Runs `deploy/publisher-user.sh` as an operator runs it next to a node, and returns the broker's URL for
/// the user that the script has created.
async fn publisher_url(node: &Node, installation: &Installation) -> String {
    let (bin, password) = (installation.directory().join("bin"), "correct-horse");
    fs::create_dir(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\nexec '{}' ctl '{}' \"$@\"\n",
        root().join("deploy/local/broker.sh").display(),
        node.directory().display()
    );
    fs::write(bin.join("rabbitmqctl"), script).unwrap();
    fs::set_permissions(bin.join("rabbitmqctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap());
    // The second run sets the password and the permissions of an existing user.
    for password in ["another one", password] {
        let made = Command::new(root().join("deploy/publisher-user.sh"))
            .args([USER, installation.prefix()])
            .env("PATH", &path)
            .env("PUBLISHER_PASSWORD", password)
            .output()
            .await
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    node.url().replace("guest:guest@", &format!("{USER}:{password}@"))
}

/// Opens a channel on a new connection, because some refusals close the connection.
async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    (connection, channel)
}

/// Panics unless the error is RabbitMQ's `ACCESS_REFUSED`.
fn assert_refused<T>(what: &str, result: Result<T, lapin::Error>) {
    let Err(error) = result else {
        panic!("{what} was let through");
    };
    let text = error.to_string();
    assert!(
        text.contains("ACCESS_REFUSED") || text.contains("ACCESS-REFUSED"),
        "{what}: {text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publishers_user_may_write_events_and_do_nothing_else() {
    let node = Node::start().await;
    let installation = Installation::with("publishers", node.url(), &[200], &[]).await;
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.worker().await;
    let url = publisher_url(&node, &installation).await;

    let producer = Producer::connect(producer::Config::new(&url, installation.prefix()).unwrap());
    producer.ready(SOON).await.unwrap();
    let serialized = |lead: &str| Serialized {
        body: Bytes::from(event("org_1", lead)),
        message_id: None,
        traceparent: None,
    };
    producer.publish_json(&serialized("alone")).await.unwrap();
    let batch: Vec<_> = (0..300).map(|n| serialized(&n.to_string())).collect();
    for result in producer.publish_json_batch(&batch).await {
        result.unwrap();
    }
    producer.shutdown().await;
    let amqp = Amqp::connect(&url, installation.prefix()).await;
    amqp.publish(&[event("org_1", "lapin")]).await;
    wait_until("all arrive", SOON, || receiver.distinct() == 302).await;

    let (headers, name) = (due_headers(&endpoint), |name: &str| {
        format!("{}.{name}", installation.prefix())
    });
    let properties = BasicProperties::default().with_headers(headers);
    for (exchange, key) in [
        (name("deliveries"), "due".to_owned()),
        (name("operations"), "endpoint.disabled".to_owned()),
        (String::new(), name("due")),
        (String::new(), name("dead")),
        (String::new(), name("journal")),
        ("amq.direct".to_owned(), name("due")),
    ] {
        let (_connection, channel) = channel(&url).await;
        let (body, options) = (event("org_1", "forged"), BasicPublishOptions::default());
        let publishing = channel.basic_publish(
            exchange.as_str().into(),
            key.as_str().into(),
            options,
            body.as_bytes(),
            properties.clone(),
        );
        let published = async { publishing.await?.await };
        assert_refused(&format!("a publish to {exchange:?} with {key}"), published.await);
    }
    assert_may_not_touch(&url, &name("due")).await;
    assert_eq!(receiver.distinct(), 302);
    assert!(worker.terminate().await);
    let confirmed = installation
        .amqp()
        .publish_raw(event("org_1", "last").as_bytes(), BasicProperties::default())
        .await;
    assert_eq!(confirmed, Confirmation::Ack(None), "the operator's own user may");
}

/// Panics if the user may consume, get, purge or declare anything.
async fn assert_may_not_touch(url: &str, queue: &str) {
    let (_connection, reading) = channel(url).await;
    let consumed = reading
        .basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await;
    assert_refused("consuming", consumed);
    let (_connection, getting) = channel(url).await;
    assert_refused(
        "getting",
        getting.basic_get(queue.into(), BasicGetOptions::default()).await,
    );
    let (_connection, purging) = channel(url).await;
    assert_refused(
        "purging",
        purging
            .queue_purge(queue.into(), QueuePurgeOptions::default())
            .await,
    );
    let (_connection, declaring) = channel(url).await;
    let declared = declaring
        .queue_declare(
            "mine".into(),
            QueueDeclareOptions::default(),
            FieldTable::default(),
        )
        .await;
    assert_refused("declaring", declared);
}
