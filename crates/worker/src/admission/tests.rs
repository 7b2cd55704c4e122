use futures_util::{FutureExt as _, future::join_all};
use proptest::prelude::*;

use super::*;

fn id(name: impl std::fmt::Display) -> EndpointId {
    EndpointId::new(name.to_string())
}

/// Takes slots without waiting until one is refused.
fn fill(admission: &Arc<Admission>, endpoint: &EndpointId) -> Vec<Slot> {
    std::iter::from_fn(|| admission.admit(endpoint).now_or_never().flatten()).collect()
}

fn free(admission: &Admission) -> usize {
    admission.lock().free
}

#[tokio::test(start_paused = true)]
async fn one_endpoint_gets_a_quarter_of_what_is_free_and_never_less_than_one() {
    for (slots, expected) in [(1, 1), (4, 1), (5, 1), (20, 4), (512, 102)] {
        let admission = Admission::new(slots);
        assert_eq!(fill(&admission, &id("a")).len(), expected, "{slots} slots");
        assert_eq!(free(&admission), slots, "dropped slots come back");
    }
}

#[tokio::test(start_paused = true)]
async fn eight_endpoints_that_never_answer_leave_a_third_of_the_slots() {
    let admission = Admission::new(512);
    // They come in turn, as their events do.
    let mut held = Vec::new();
    for _ in 0..512 {
        held.extend((0..8).filter_map(|n| admission.admit(&id(n)).now_or_never().flatten()));
    }
    assert!(free(&admission) >= 512 / 3, "{} free", free(&admission));
    assert!(fill(&admission, &id("healthy")).len() >= 32);
}

#[tokio::test(start_paused = true)]
async fn events_begin_in_order_and_no_more_attempts_are_in_work_than_there_are_slots() {
    let admission = Admission::new(8);
    let first = admission.begin(5).await;
    // More than there will ever be: as many as there are.
    let mut second = Box::pin(admission.begin(100));
    assert!(second.as_mut().now_or_never().is_none());
    let mut third = Box::pin(admission.begin(1));
    assert!(
        third.as_mut().now_or_never().is_none(),
        "it would fit, but is not next"
    );
    assert!(
        admission.begin(0).now_or_never().is_some(),
        "nothing waits for nothing"
    );
    drop(first);
    let all = second.await;
    assert!(third.as_mut().now_or_never().is_none());
    drop(all);
    let _third = third.await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_answers_fast_is_waited_for_and_one_that_hangs_is_not() {
    let admission = Admission::new(4);
    let fast = id("fast");
    admission.admit(&fast).await.unwrap().concluded(true);
    let slot = admission.admit(&fast).await.unwrap();
    let (second, ()) = tokio::join!(admission.admit(&fast), async { slot.concluded(true) });
    assert!(second.is_some());

    let hanging = id("hanging");
    let _held = admission.admit(&hanging).await.unwrap();
    let state = admission.lock();
    let later = Instant::now() + Duration::from_secs(5);
    assert!(state.promised_wait(&hanging, later) > WAIT_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_after_its_bound_and_leaves_nothing_behind() {
    let admission = Admission::new(4);
    let endpoint = id("a");
    let slot = admission.admit(&endpoint).await.unwrap();
    let before = tokio::time::Instant::now();
    assert!(admission.admit(&endpoint).await.is_none());
    assert_eq!(before.elapsed(), WAIT_MAX);
    drop(slot);
    assert_eq!(free(&admission), 4);
    assert!(admission.admit(&endpoint).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_deferred_waits_until_a_slot_comes_free() {
    let admission = Admission::new(4);
    let endpoint = id("a");
    let slot = admission.admit(&endpoint).await.unwrap();
    let releasing = async {
        tokio::time::advance(WAIT_MAX * 10).await;
        slot.concluded(true);
    };
    let (waited, ()) = tokio::join!(admission.wait(&endpoint), releasing);
    assert!(waited.is_some());
    assert_eq!(free(&admission), 3);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_after_it_was_granted_gives_the_slot_back() {
    let admission = Admission::new(4);
    let endpoint = id("a");
    let slot = admission.admit(&endpoint).await.unwrap();
    let mut waiting = Box::pin(admission.admit(&endpoint));
    assert!((&mut waiting).now_or_never().is_none());
    drop(slot);
    assert_eq!(free(&admission), 3, "it was granted");
    drop(waiting);
    assert_eq!(free(&admission), 4);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_suspect_after_a_failure_until_it_succeeds() {
    let admission = Admission::new(8);
    let endpoint = id("a");
    assert!(!admission.is_suspect(&endpoint), "unknown");
    for (success, suspect) in [(true, false), (false, true), (false, true), (true, false)] {
        admission.admit(&endpoint).await.unwrap().concluded(success);
        assert_eq!(admission.is_suspect(&endpoint), suspect);
    }
    drop(admission.admit(&endpoint).await);
    assert!(
        !admission.is_suspect(&endpoint),
        "a slot given back unused says nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn the_behaviour_of_idle_endpoints_is_forgotten_at_the_bound() {
    let admission = Admission::new(8);
    let busy = admission.admit(&id("busy")).await.unwrap();
    for n in 0..=REMEMBERED_MAX {
        drop(admission.admit(&id(n)).await);
    }
    assert!(admission.lock().endpoints.len() <= REMEMBERED_MAX);
    drop(busy);
    assert_eq!(free(&admission), 8);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn slots_are_never_lost_nor_made_up_whoever_waits_gives_up_or_finishes(
        slots in 1_usize..40, steps in prop::collection::vec((0_u8..4, 0_u8..6, any::<bool>()), 1..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let admission = Admission::new(slots);
            let (mut held, mut waiting) = (Vec::new(), Vec::new());
            for (action, endpoint, success) in steps {
                let endpoint = id(endpoint);
                match action {
                    0 => {
                        let admission = Arc::clone(&admission);
                        waiting.push(tokio::spawn(async move { admission.admit(&endpoint).await }));
                        tokio::task::yield_now().await;
                    }
                    1 => held.extend(admission.admit(&endpoint).now_or_never().flatten()),
                    2 if !held.is_empty() => { let slot: Slot = held.remove(0); slot.concluded(success); }
                    3 if !waiting.is_empty() => waiting[0].abort(),
                    _ => {}
                }
                assert!(held.len() + free(&admission) <= slots);
            }
            drop(held);
            for joined in join_all(waiting).await {
                drop(joined);
            }
            assert_eq!(free(&admission), slots);
            let state = admission.lock();
            assert!(state.endpoints.values().all(|behaviour| behaviour.held.is_empty()));
        });
    }
}
