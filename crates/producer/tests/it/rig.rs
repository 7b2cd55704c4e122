//! The test fixture: a broker, a separate name prefix on it, and access to the messages that arrived.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use broker::{Link, Topology};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{
        BasicGetOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use producer::{Config, Data, Event, Lead, Producer};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A connection to a broker with a prefix that no other test uses.
pub(crate) struct Rig {
    pub(crate) config: Config,
    pub(crate) topology: Topology,
    channel: Channel,
    _connection: Connection,
}

/// A message taken from a queue.
pub(crate) struct Message {
    pub(crate) body: Vec<u8>,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
}

/// Returns the URL of the broker that tests share.
pub(crate) fn broker_url() -> String {
    env::var("MAGNETITE_BROKER__URL").expect(
        "this test needs a RabbitMQ: run tests/run.sh, which finds or starts one, or set MAGNETITE_BROKER__URL to what \
         `deploy/local/broker.sh start DIR` prints",
    )
}

/// Runs a test with its own prefix on the shared broker, and then deletes everything with that prefix,
/// whether or not the test passed.
pub(crate) async fn on_broker<F>(test: impl FnOnce(Arc<Rig>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let rig = Arc::new(Rig::new(&broker_url()).await);
    let outcome = tokio::spawn(test(Arc::clone(&rig))).await;
    rig.delete().await;
    if let Err(failed) = outcome {
        std::panic::resume_unwind(failed.into_panic());
    }
}

impl Rig {
    pub(crate) async fn new(url: &str) -> Self {
        Self::of(url, format!("test-producer-{:016x}", rand_u64())).await
    }

    /// Uses an existing prefix.
    pub(crate) async fn of(url: &str, prefix: String) -> Self {
        let config = Config::new(url, prefix.as_str()).expect("the URL of a broker");
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .expect("a broker at MAGNETITE_BROKER__URL");
        Self {
            config,
            topology: Topology::new(prefix, &[Duration::from_secs(1)]),
            channel: connection.create_channel().await.expect("a channel"),
            _connection: connection,
        }
    }

    pub(crate) fn producer(&self) -> Producer {
        Producer::connect(self.config.clone())
    }

    /// Declares what a worker declares.
    pub(crate) async fn declare(&self) {
        let stop = CancellationToken::new();
        let link = Link::open(&self.config, "magnetite test", stop.clone());
        self.topology.declare(&link).await.expect("a topology");
        stop.cancel();
    }

    pub(crate) async fn declare_exchange_only(&self) {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let name = self.topology.events_exchange();
        self.channel
            .exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default())
            .await
            .expect("an exchange");
    }

    /// Declares an events queue that accepts one message and rejects all others.
    pub(crate) async fn declare_queue_for_one(&self) {
        self.declare_exchange_only().await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert(
            "x-overflow".into(),
            AMQPValue::LongString("reject-publish".into()),
        );
        let durable = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let (queue, exchange) = (self.topology.events(), self.topology.events_exchange());
        self.channel
            .queue_declare(queue.as_str().into(), durable, arguments)
            .await
            .expect("a queue");
        let bind = QueueBindOptions::default();
        self.channel
            .queue_bind(
                queue.into(),
                exchange.into(),
                "#".into(),
                bind,
                FieldTable::default(),
            )
            .await
            .expect("a binding");
    }

    /// Takes all messages from the events queue, oldest first.
    pub(crate) async fn take_all(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        let acked = BasicGetOptions { no_ack: true };
        let queue = self.topology.events();
        while let Some(message) = self
            .channel
            .basic_get(queue.as_str().into(), acked)
            .await
            .expect("an events queue")
        {
            let message = message.delivery;
            messages.push(Message {
                body: message.data,
                exchange: message.exchange.to_string(),
                routing_key: message.routing_key.to_string(),
                properties: message.properties,
            });
        }
        messages
    }

    async fn delete(&self) {
        for queue in self.topology.queues() {
            let options = QueueDeleteOptions::default();
            let deleted = self.channel.queue_delete(queue.name.into(), options).await;
            deleted.expect("the channel lives");
        }
        for exchange in self.topology.exchanges() {
            let options = ExchangeDeleteOptions::default();
            let deleted = self.channel.exchange_delete(exchange.name.into(), options).await;
            deleted.expect("the channel lives");
        }
    }
}

impl Message {
    pub(crate) fn id(&self) -> &str {
        let id = self.properties.message_id().as_ref();
        id.expect("every event has a message_id").as_str()
    }
}

/// A RabbitMQ node for a single test, which may stop or kill it.
pub(crate) struct Node {
    dir: TempDir,
}

impl Node {
    pub(crate) async fn start() -> (Self, String) {
        let node = Self {
            dir: TempDir::with_prefix("magnetite-producer-").expect("a directory"),
        };
        let url = node.run("start", &[]).await;
        (node, url)
    }

    pub(crate) async fn start_again(&self) {
        self.run("start", &[]).await;
    }

    pub(crate) async fn stop(&self) {
        self.run("stop", &[]).await;
    }

    pub(crate) async fn kill(&self) {
        self.run("kill", &[]).await;
    }

    /// Sets the fraction of the machine's memory that the node may use before it raises its memory alarm.
    pub(crate) async fn set_memory_watermark(&self, fraction: &str) {
        self.run("ctl", &["set_vm_memory_high_watermark", fraction]).await;
    }

    async fn run(&self, verb: &str, arguments: &[&str]) -> String {
        let mut command = self.command(verb);
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output
            .await
            .expect("not cancelled")
            .expect("deploy/local/broker.sh");
        assert!(
            output.status.success(),
            "broker.sh {verb}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn command(&self, verb: &str) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/local/broker.sh");
        let mut command = Command::new(script);
        command.arg(verb).arg(self.dir.path());
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut command = self.command("remove");
        // A failure cannot be handled here, and the script reports it.
        let _ = command.stdout(Stdio::null()).status();
    }
}

/// Polls until the condition holds. Panics if it does not hold in time.
pub(crate) async fn wait_for(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the event with this number.
pub(crate) fn event(number: u64) -> Event {
    Event::new(
        Lead::new("org_1", "proj_1", "lead_1"),
        1_703_123_456_789 + number,
        Data::ResearchStarted,
    )
}

fn rand_u64() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
