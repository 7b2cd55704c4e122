//! A proxy to the broker that parses enough of AMQP 0-9-1 to tamper with publisher confirms.
//!
//! The proxy tracks every publish from the client until its confirm, and every delivery until its ack. It can
//! hold confirms back, so that a known number of publishes is in flight, and it can replace the confirm of a
//! chosen publish with a nack or drop it. In either case the broker has stored the message: the tests examine
//! how the publisher handles the answer.

mod frame;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::proxy::Target;

use frame::{BASIC_ACK, BASIC_DELIVER, BASIC_PUBLISH, BODY, CHANNEL_OPEN, Frame, GREETING_BYTES, HEADER};

/// A proxy between the clients that connect to [`Confirms::url`] and the broker. Dropping it closes every
/// connection.
pub struct Confirms {
    address: SocketAddr,
    target: Target,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What a client receives in place of a publish's confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// A nack.
    Nack,
    /// Nothing: the confirm is dropped.
    Silence,
    /// The confirm, but not before [`Confirms::release`] is called.
    Late,
}

/// A publish that the proxy has forwarded.
#[derive(Clone, Debug)]
pub struct Published {
    /// The body of the message.
    pub body: Bytes,
    /// The largest number of publishes on its channel that were unconfirmed at the same time while this one
    /// was unconfirmed, including this one.
    pub together: usize,
    /// The strike that was applied to its confirm; `None` if there was none.
    pub struck: Option<Strike>,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Rules>,
    /// Signals that the rules have changed, so that held frames may have to be forwarded.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Rules {
    /// The number of the latest hold. Holds are numbered from 1.
    last_hold: u64,
    /// The number of the latest hold that has ended. All earlier holds have ended too.
    over: u64,
    /// The hold that applies to new publishes, and the number of unconfirmed publishes on one channel that
    /// ends it; `None` if new publishes are not held.
    hold: Option<(u64, usize)>,
    strikes: Vec<(String, Strike)>,
    /// How many times all connections have been cut.
    cuts: u64,
    published: Vec<Published>,
    /// The number of messages that each connection's client has not yet acknowledged.
    unacked: HashMap<SocketAddr, usize>,
}

impl Confirms {
    /// Listens on loopback and connects to the broker at this URL.
    pub async fn to(broker_url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, target) = (listener.local_addr().unwrap(), Target::of(broker_url));
        let shared = Arc::new(Shared::default());
        let accepting = tokio::spawn(accept(listener, target.server().to_owned(), Arc::clone(&shared)));
        Self {
            address,
            target,
            shared,
            accepting,
        }
    }

    /// Returns the broker's URL with the proxy's address in it.
    pub fn url(&self) -> String {
        self.target.at(self.address)
    }

    /// Replaces the confirm of the next publish whose body contains `marker` as `strike` says. Applies once.
    pub fn strike(&self, marker: impl Into<String>, strike: Strike) {
        self.change(|rules| rules.strikes.push((marker.into(), strike)));
    }

    /// Ends earlier holds, and holds the confirms of all publishes from now on until `together` publishes of
    /// one channel are unconfirmed.
    pub fn hold_until(&self, together: usize) {
        self.change(|rules| {
            rules.over = rules.last_hold;
            rules.hold = Some((rules.new_hold(), together));
        });
    }

    /// Ends all holds.
    pub fn release(&self) {
        self.change(|rules| {
            rules.over = rules.last_hold;
            rules.hold = None;
        });
    }

    /// Closes all open connections.
    pub fn cut(&self) {
        self.change(|rules| rules.cuts += 1);
    }

    /// Returns all publishes so far whose body contains `marker`, in order.
    pub fn published(&self, marker: &str) -> Vec<Published> {
        let rules = self.shared.rules.lock().unwrap();
        let published = rules.published.iter();
        published
            .filter(|it| contains(&it.body, marker))
            .cloned()
            .collect()
    }

    /// Returns the number of messages that the broker has delivered to the clients and that they have not
    /// acknowledged.
    pub fn unacked(&self) -> usize {
        self.shared.rules.lock().unwrap().unacked.values().sum()
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.shared.rules.lock().unwrap());
        self.shared.changed.send_replace(());
    }
}

impl Drop for Confirms {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Rules {
    fn new_hold(&mut self) -> u64 {
        self.last_hold += 1;
        self.last_hold
    }
}

fn contains(body: &[u8], marker: &str) -> bool {
    body.windows(marker.len()).any(|part| part == marker.as_bytes())
}

async fn accept(listener: TcpListener, broker: String, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, from) = listener.accept().await.unwrap();
        let (broker, shared) = (broker.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // If the broker is unreachable, the client's connection is closed.
            if let Ok(broker) = TcpStream::connect(broker).await {
                serve(client, broker, from, &shared).await;
            }
            shared.rules.lock().unwrap().unacked.remove(&from);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, mut broker: TcpStream, from: SocketAddr, shared: &Shared) {
    let mut changed = shared.changed.subscribe();
    let (mut from_client, mut from_broker) = (BytesMut::new(), BytesMut::new());
    let mut channels = Channels::default();
    let cuts = shared.rules.lock().unwrap().cuts;
    loop {
        let read = tokio::select! {
            read = client.read_buf(&mut from_client) => read.unwrap_or(0),
            read = broker.read_buf(&mut from_broker) => read.unwrap_or(0),
            _ = changed.changed() => 1,
        };
        let (to_client, to_broker, is_cut) = {
            let mut rules = shared.rules.lock().unwrap();
            let over = rules.over;
            let (to_client, to_broker) = channels.step(&mut rules, &mut from_client, &mut from_broker);
            rules.unacked.insert(from, channels.unacked.len());
            if rules.over != over {
                shared.changed.send_replace(());
            }
            (to_client, to_broker, rules.cuts != cuts)
        };
        let written = tokio::try_join!(client.write_all(&to_client), broker.write_all(&to_broker));
        if read == 0 || written.is_err() || is_cut {
            return;
        }
    }
}

/// The channels of one connection.
#[derive(Default)]
struct Channels {
    greeted: bool,
    by_id: HashMap<u16, Channel>,
    /// The channels and delivery tags of the messages that were delivered to the client and not yet
    /// acknowledged.
    unacked: BTreeSet<(u16, u64)>,
}

#[derive(Default)]
struct Channel {
    /// The delivery tag of the last publish.
    tag: u64,
    /// The body of the publish that is being received, and the number of bytes still missing; `None` between
    /// publishes.
    incoming: Option<(BytesMut, usize)>,
    /// The unconfirmed publishes, by delivery tag.
    waiting: BTreeMap<u64, Waiting>,
    /// The frames from the broker that are not forwarded yet, in order. The first is a held confirm, and
    /// later frames must not overtake it.
    held: VecDeque<Frame>,
}

struct Waiting {
    /// Its index in [`Rules::published`].
    index: usize,
    strike: Option<Strike>,
    /// The number of the hold that delays its confirm; 0 if none does.
    hold: u64,
}

impl Channels {
    /// Forwards every complete frame. Returns the bytes for the client and the bytes for the broker.
    fn step(
        &mut self,
        rules: &mut Rules,
        from_client: &mut BytesMut,
        from_broker: &mut BytesMut,
    ) -> (BytesMut, BytesMut) {
        let (mut to_client, mut to_broker) = (BytesMut::new(), BytesMut::new());
        if !self.greeted && from_client.len() >= GREETING_BYTES {
            self.greeted = true;
            to_broker.put(from_client.split_to(GREETING_BYTES));
        }
        while self.greeted
            && let Some(frame) = Frame::take(from_client)
        {
            self.follow_client(&frame, rules);
            to_broker.put(frame.bytes);
        }
        self.let_go(rules, &mut to_client);
        while let Some(frame) = Frame::take(from_broker) {
            self.follow_broker(frame, rules, &mut to_client);
        }
        (to_client, to_broker)
    }

    fn follow_client(&mut self, frame: &Frame, rules: &mut Rules) {
        let id = frame.channel();
        let channel = self.by_id.entry(id).or_default();
        match frame.method() {
            Some(CHANNEL_OPEN) => *channel = Channel::default(),
            Some(BASIC_PUBLISH) => channel.incoming = Some((BytesMut::new(), 0)),
            Some(BASIC_ACK) => {
                let (tag, multiple) = frame.tag();
                self.unacked.retain(|&(on, it)| {
                    let is_acked = it == tag || (multiple && it < tag);
                    on != id || !is_acked
                });
            }
            _ => {}
        }
        if channel.takes_content(frame) {
            channel.published(rules);
        }
    }

    fn follow_broker(&mut self, frame: Frame, rules: &Rules, to_client: &mut BytesMut) {
        let id = frame.channel();
        if frame.method() == Some(BASIC_DELIVER) {
            self.unacked.insert((id, frame.delivered()));
        }
        let channel = self.by_id.entry(id).or_default();
        channel.held.push_back(frame);
        channel.let_go(rules, to_client);
    }

    fn let_go(&mut self, rules: &Rules, to_client: &mut BytesMut) {
        for channel in self.by_id.values_mut() {
            channel.let_go(rules, to_client);
        }
    }
}

impl Channel {
    /// Adds the frame to the content of the incoming publish, and returns whether the content is now
    /// complete.
    fn takes_content(&mut self, frame: &Frame) -> bool {
        let Some((body, missing)) = &mut self.incoming else {
            return false;
        };
        match frame.kind() {
            HEADER => *missing = frame.body_bytes(),
            BODY => {
                body.put(frame.payload());
                *missing -= frame.payload().len();
            }
            _ => return false,
        }
        *missing == 0
    }

    /// Registers a completely received publish as unconfirmed.
    fn published(&mut self, rules: &mut Rules) {
        let (body, _) = self.incoming.take().expect("content follows a publish");
        let strike = rules
            .strikes
            .iter()
            .position(|(marker, _)| contains(&body, marker))
            .map(|at| rules.strikes.remove(at).1);
        let hold = match (strike, rules.hold) {
            (Some(Strike::Late), _) => rules.new_hold(),
            (_, Some((hold, _))) => hold,
            (_, None) => 0,
        };
        let index = rules.published.len();
        self.tag += 1;
        self.waiting.insert(self.tag, Waiting { index, strike, hold });
        rules.published.push(Published {
            body: body.freeze(),
            together: 0,
            struck: strike,
        });
        let together = self.waiting.len();
        for waiting in self.waiting.values() {
            let published = &mut rules.published[waiting.index];
            published.together = published.together.max(together);
        }
        if let Some((hold, _)) = rules.hold.take_if(|(_, until)| together >= *until) {
            rules.over = hold;
        }
    }

    /// Returns whether the frame is a confirm for a publish whose hold has not ended.
    fn holds(&self, frame: &Frame, rules: &Rules) -> bool {
        frame.is_confirm()
            && self
                .confirmed(frame)
                .any(|(_, waiting)| waiting.hold > rules.over)
    }

    /// Returns the publishes that a confirm covers, with their delivery tags.
    fn confirmed(&self, frame: &Frame) -> impl Iterator<Item = (&u64, &Waiting)> {
        let (last, multiple) = frame.tag();
        self.waiting.range(if multiple { 0 } else { last }..=last)
    }

    fn let_go(&mut self, rules: &Rules, to_client: &mut BytesMut) {
        while let Some(frame) = self.held.front()
            && !self.holds(frame, rules)
            && let Some(frame) = self.held.pop_front()
        {
            self.forward(frame, to_client);
        }
    }

    fn forward(&mut self, frame: Frame, to_client: &mut BytesMut) {
        if frame.is_confirm() {
            self.confirm(frame, to_client);
        } else {
            to_client.put(frame.bytes);
        }
    }

    /// Forwards a confirm. If it covers a publish whose confirm is to be replaced or dropped, it is split
    /// into one confirm for each publish.
    fn confirm(&mut self, frame: Frame, to_client: &mut BytesMut) {
        let hit: Vec<_> = self
            .confirmed(&frame)
            .map(|(tag, waiting)| (*tag, waiting.strike))
            .collect();
        let is_struck = hit
            .iter()
            .any(|(_, strike)| matches!(strike, Some(Strike::Nack | Strike::Silence)));
        for (tag, strike) in hit {
            // A publish whose confirm was dropped stays in the map, so that its tag is also removed from
            // later confirms that would cover it.
            if strike != Some(Strike::Silence) {
                self.waiting.remove(&tag);
            }
            match strike {
                _ if !is_struck => {}
                None | Some(Strike::Late) => to_client.put(Frame::confirm(&frame, tag).bytes),
                Some(Strike::Nack) => to_client.put(Frame::nack(&frame, tag).bytes),
                Some(Strike::Silence) => {}
            }
        }
        if !is_struck {
            to_client.put(frame.bytes);
        }
    }
}
