//! A timeout for waiting for the broker that does not count time during which the process was suspended.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, timeout};

/// The number of steps that a wait is divided into.
const STEPS: u32 = 8;

/// A time budget for waiting for answers.
///
/// When a process resumes after it was suspended (SIGSTOP, a paused or overloaded machine), its timers have
/// expired before it has read what the broker answered in the meantime. Therefore a step that took at least
/// twice its length does not count. At most [`STEPS`] such steps are not counted, so that the wait ends in
/// any case.
pub(crate) struct Patience {
    step: Duration,
    left: Duration,
    late_steps_left: u32,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            step: limit / STEPS,
            left: limit,
            late_steps_left: STEPS,
        }
    }

    /// Waits for `answer` for the rest of the budget; returns `None` if it is used up. Several waits may
    /// share one budget.
    pub(crate) async fn wait<F: Future>(&mut self, answer: F) -> Option<F::Output> {
        let mut answer = pin!(answer);
        while !self.left.is_zero() {
            let (step, began) = (self.step.min(self.left), Instant::now());
            let answered = timeout(step, &mut answer).await.ok();
            let took = began.elapsed();
            if took >= 2 * self.step && self.late_steps_left > 0 {
                self.late_steps_left -= 1;
            } else {
                self.left = self.left.saturating_sub(took);
            }
            if answered.is_some() {
                return answered;
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
        let soon = async {
            sleep(LIMIT / 20).await;
            1
        };
        assert_eq!(patience.wait(soon).await, Some(1));
        assert_eq!(patience.wait(pending::<()>()).await, None);
        // The runtime's timer has a resolution of one millisecond.
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
            // Another thread reads the answer shortly after the timer has expired.
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
        assert!(began.elapsed() < LIMIT * 2 * (STEPS + 2));
    }
}
