//! A bound on waiting for the broker that a process which stood still does not use up.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, timeout};

/// A wait is made of so many steps.
const STEPS: u32 = 8;

/// Time to wait for an answer. A process that stood still (SIGSTOP, a paused or overloaded machine) finds its timer over before it
/// has read what the broker answered meanwhile, so a step that took twice its length or more is given once more. Not without
/// end: it is twice as many steps at most.
pub(crate) struct Patience {
    step: Duration,
    /// Steps in time that are left.
    left: u32,
    /// Steps of either kind that are left.
    left_in_all: u32,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            step: limit / STEPS,
            left: STEPS,
            left_in_all: 2 * STEPS,
        }
    }

    /// Waits for what is left of the limit; `None` when that is over. Several waits may share it; the step in which an answer comes is
    /// not used up.
    pub(crate) async fn wait<F: Future>(&mut self, answer: F) -> Option<F::Output> {
        let mut answer = pin!(answer);
        while self.left > 0 && self.left_in_all > 0 {
            let began = Instant::now();
            if let Ok(answer) = timeout(self.step, &mut answer).await {
                return Some(answer);
            }
            self.left_in_all -= 1;
            if began.elapsed() < 2 * self.step {
                self.left -= 1;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{
        sync::oneshot,
        time::{advance, sleep},
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn it_ends_after_the_limit_however_many_waits_share_it() {
        let (mut patience, began) = (Patience::new(LIMIT), Instant::now());
        assert_eq!(patience.wait(async { 1 }).await, Some(1));
        assert_eq!(patience.wait(pending::<()>()).await, None);
        // The timer of the runtime counts milliseconds.
        let lasted = began.elapsed();
        assert!(
            lasted >= LIMIT && lasted < LIMIT + Duration::from_millis(20),
            "{lasted:?}"
        );
        assert_eq!(patience.wait(pending::<()>()).await, None);
        assert_eq!(began.elapsed(), lasted);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_after_standing_still_is_taken() {
        for stood_still_after in [Duration::ZERO, LIMIT / 2, Duration::from_millis(1999)] {
            let (answer, answered) = oneshot::channel();
            let waiting = tokio::spawn(async move { Patience::new(LIMIT).wait(answered).await });
            sleep(stood_still_after).await;
            advance(2 * LIMIT).await;
            // Another thread reads the answer, a moment after the timer is over.
            sleep(LIMIT / 10).await;
            answer.send(()).unwrap();
            assert_eq!(waiting.await.unwrap(), Some(Ok(())), "{stood_still_after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stands_still_again_and_again_gives_up_in_the_end() {
        let (waiting, began) = (
            tokio::spawn(async { Patience::new(LIMIT).wait(pending::<()>()).await }),
            Instant::now(),
        );
        while !waiting.is_finished() {
            sleep(Duration::from_millis(1)).await;
            advance(LIMIT).await;
        }
        assert_eq!(waiting.await.unwrap(), None);
        assert!(began.elapsed() < LIMIT * 2 * (2 * STEPS + 1));
    }
}
