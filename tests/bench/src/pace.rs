//! Publishes events at a steady pace, regardless of the progress of earlier ones.

use std::{
    ops::Range,
    pin::pin,
    thread,
    time::{Duration, Instant},
};

use e2e::Amqp;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;

use crate::{event::Events, receiver::now_ns};

/// The events that were published.
pub struct Paced {
    begin_ns: u64,
    interval: Duration,
    /// Their numbers.
    pub numbers: Range<usize>,
}

impl Paced {
    /// Returns when an event was due to be published, in Unix nanoseconds.
    pub fn due_ns(&self, number: usize) -> u64 {
        let since_begin = self.interval.as_nanos() as u64 * (number - self.numbers.start) as u64;
        self.begin_ns + since_begin
    }
}

/// Publishes the events with these numbers, or those that are due before `stop` completes, and waits for
/// their confirms.
pub async fn publish(
    amqp: &Amqp,
    events: Events,
    numbers: Range<usize>,
    per_second: usize,
    stop: impl Future<Output = ()>,
) -> Paced {
    let interval = Duration::from_secs(1) / per_second as u32;
    let (begin_ns, mut due) = pace(numbers.clone(), interval);
    let (mut publishing, mut end, mut stop) = (FuturesUnordered::new(), numbers.start, pin!(stop));
    loop {
        tokio::select! {
            number = due.recv() => match number {
                Some(number) => {
                    publishing.push(events.publish(amqp, number));
                    end = number + 1;
                }
                None => break,
            },
            Some(()) = publishing.next() => {}
            () = &mut stop => break,
        }
    }
    while publishing.next().await.is_some() {}
    Paced {
        begin_ns,
        interval,
        numbers: numbers.start..end,
    }
}

/// Starts a thread that sends each event's number when the event is due. Returns the start time in Unix
/// nanoseconds, and the receiving end.
#[allow(
    clippy::disallowed_methods,
    reason = "the pace is what is measured against, and the runtime's timers have a grain of a millisecond"
)]
fn pace(numbers: Range<usize>, interval: Duration) -> (u64, mpsc::UnboundedReceiver<usize>) {
    let (tell, due) = mpsc::unbounded_channel();
    let (begin, begin_ns) = (Instant::now(), now_ns());
    thread::spawn(move || {
        for (place, number) in numbers.enumerate() {
            let at = begin + interval * place as u32;
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if tell.send(number).is_err() {
                return;
            }
        }
    });
    (begin_ns, due)
}
