use futures_util::{FutureExt as _, future::join_all};
use proptest::prelude::*;

use super::*;

fn id(name: impl std::fmt::Display) -> EndpointId {
    EndpointId::new(name.to_string())
}

fn org(name: impl std::fmt::Display) -> OrganizationId {
    OrganizationId::new(name.to_string())
}

fn try_admit(admission: &Arc<Admission>, endpoint: &EndpointId) -> Option<Slot> {
    try_admit_of(admission, endpoint, &org("a"))
}

fn try_admit_of(
    admission: &Arc<Admission>,
    endpoint: &EndpointId,
    organization: &OrganizationId,
) -> Option<Slot> {
    admission.admit(endpoint, organization).now_or_never()?.ok()
}

fn free(admission: &Admission) -> usize {
    admission.lock().shares.free()
}

/// Makes one successful attempt, after which the endpoint is known to be healthy.
async fn succeeds(admission: &Arc<Admission>, endpoint: &EndpointId) {
    let slot = admission.admit(endpoint, &org("a")).await;
    slot.ok().unwrap().concluded(true);
}

fn begin<'a>(
    admission: &'a Admission,
    organization: &'a OrganizationId,
    attempts: usize,
) -> std::pin::Pin<Box<impl Future<Output = Option<Begun<'a>>>>> {
    Box::pin(admission.begin(organization, attempts, || true))
}

#[tokio::test(start_paused = true)]
async fn events_of_an_organization_begin_in_order_and_with_half_of_the_places() {
    let (admission, a) = (Admission::new(8), org("a"));
    let mut in_work: Vec<_> = (0..4)
        .map(|_| begin(&admission, &a, 1).now_or_never().flatten().unwrap())
        .collect();
    let mut second = begin(&admission, &a, 100);
    assert!(second.as_mut().now_or_never().is_none(), "half are in work");
    let mut third = begin(&admission, &a, 1);
    assert!(third.as_mut().now_or_never().is_none());
    assert!(
        begin(&admission, &a, 0).now_or_never().is_some(),
        "an event without attempts does not wait"
    );
    drop(in_work.pop());
    let all = second.await.unwrap();
    assert!(all.has_waited);
    assert!(
        third.as_mut().now_or_never().is_none(),
        "the third event is not next"
    );
    in_work.clear();
    drop(all);
    assert!(third.await.is_some());
    assert_eq!(admission.places().in_work(), 0);
    assert_eq!(admission.places().tracked(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_event_begins_however_many_first_attempts_others_have_in_work() {
    let (admission, organizations) = (Admission::new(64), [0, 1, 2, 3, 4, 5].map(org));
    let mut in_work = Vec::new();
    for organization in &organizations {
        while let Some(begun) = begin(&admission, organization, 10).now_or_never().flatten() {
            in_work.push(begun);
        }
    }
    assert!(admission.places().in_work() >= 60);
    assert!(begin(&admission, &org("healthy"), 10).now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn an_event_does_not_wait_for_attempts_of_its_organization_that_hang() {
    let (admission, a) = (Admission::new(2), org("a"));
    let hanging = begin(&admission, &a, 1).await.unwrap();
    let before = std::time::Instant::now();
    assert!(
        begin(&admission, &a, 1).await.is_none(),
        "the event goes on without them"
    );
    assert!(before.elapsed() < 10 * WAIT_MAX);
    let mut waiting = Box::pin(admission.begin(&a, 1, || false));
    assert!(
        timeout(WAIT_MAX * 20, &mut waiting).await.is_err(),
        "the event may not go on"
    );
    drop(hanging);
    assert!(waiting.await.is_some());
    assert_eq!(admission.places().in_work(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_stops_waiting_leaves_nothing_behind() {
    let (admission, a) = (Admission::new(2), org("a"));
    let begun = begin(&admission, &a, 1).await;
    let mut waiting = begin(&admission, &a, 1);
    assert!(waiting.as_mut().now_or_never().is_none());
    let mut granted = begin(&admission, &a, 1);
    assert!(granted.as_mut().now_or_never().is_none());
    drop(waiting);
    drop(begun);
    assert_eq!(admission.places().in_work(), 1, "the place was granted");
    drop(granted);
    let places = admission.places();
    assert_eq!((places.in_work(), places.tracked()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_answers_fast_is_waited_for_and_one_that_hangs_is_not() {
    let (admission, endpoint, a) = (Admission::new(4), id("a"), org("a"));
    let slot = try_admit(&admission, &endpoint).unwrap();
    let answering = async {
        tokio::time::advance(WAIT_MAX / 2).await;
        slot.concluded(true);
    };
    let (waited, ()) = tokio::join!(admission.admit(&endpoint, &a), answering);
    let hanging = waited.ok().unwrap();
    let now = Instant::now();
    let waits = [WAIT_MAX / 2, WAIT_MAX * 2, LONG_WAIT_MAX * 2].map(|quiet| {
        let state = admission.lock();
        state.wait_max(&endpoint, &a, Refusal::Endpoint, now + quiet)
    });
    assert_eq!(waits, [Some(LONG_WAIT_MAX), Some(LONG_WAIT_MAX), None]);
    let waits = [WAIT_MAX / 2, WAIT_MAX * 2].map(|quiet| {
        let mut state = admission.lock();
        state.waiting_long = state.shares.unwell_max();
        let wait = state.wait_max(&endpoint, &a, Refusal::Endpoint, now + quiet);
        state.waiting_long = 0;
        wait
    });
    assert_eq!(waits, [Some(WAIT_MAX), None], "there is no room to wait long");
    drop(hanging);
}

#[tokio::test(start_paused = true)]
async fn so_many_wait_long_that_half_of_the_slots_could_be_theirs() {
    let (admission, organizations) = (Admission::new(16), ["a", "b"].map(org));
    let later = Instant::now() + WAIT_MAX * 3 / 2;
    let mut waiting = Vec::new();
    for (organization, most) in organizations.iter().zip([4, 2]) {
        let endpoint = id(organization);
        let _held = try_admit_of(&admission, &endpoint, organization).unwrap();
        for n in 0..most {
            let mut state = admission.lock();
            assert!(
                state
                    .wait_max(&endpoint, organization, Refusal::Organization, later)
                    .is_some(),
                "{n} wait"
            );
            state.shares.waits(&endpoint, organization);
            state.waiting_long += 1;
            waiting.push(endpoint.clone());
        }
        let state = admission.lock();
        for refusal in [Refusal::Organization, Refusal::Unwell] {
            let refused = state.wait_max(&endpoint, organization, refusal, later);
            assert_eq!(refused, None, "{refusal:?}");
        }
    }
    let mut state = admission.lock();
    for endpoint in waiting {
        state.shares.waits_no_more(&endpoint);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_ones_own_share_ends_after_its_bound_and_leaves_nothing_behind() {
    let (admission, endpoint) = (Admission::new(4), id("a"));
    let slot = try_admit(&admission, &endpoint).unwrap();
    let before = tokio::time::Instant::now();
    assert!(admission.admit(&endpoint, &org("a")).await.is_err());
    assert_eq!(before.elapsed(), WAIT_MAX);
    drop(slot);
    assert_eq!(free(&admission), 4);
    assert!(admission.admit(&endpoint, &org("a")).await.is_ok());
    assert_eq!(admission.lock().shares.organizations(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_others_hold_is_waited_for_for_a_second() {
    let admission = Admission::new(1);
    let slot = try_admit_of(&admission, &id("a"), &org("a"));
    let before = tokio::time::Instant::now();
    let refused = admission.admit(&id("b"), &org("b")).await.err();
    assert_eq!(refused, Some(Refusal::Slots));
    assert_eq!(before.elapsed(), LONG_WAIT_MAX);
    let releasing = async {
        tokio::time::sleep(LONG_WAIT_MAX / 2).await;
        drop(slot);
    };
    let (b, org_b) = (id("b"), org("b"));
    let (waited, ()) = tokio::join!(admission.admit(&b, &org_b), releasing);
    assert!(waited.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_cannot_be_deferred_waits_until_a_slot_comes_free() {
    let (admission, endpoint, a) = (Admission::new(4), id("a"), org("a"));
    let slot = try_admit(&admission, &endpoint).unwrap();
    let releasing = async {
        tokio::time::advance(WAIT_MAX * 10).await;
        slot.concluded(true);
    };
    let (waited, ()) = tokio::join!(admission.wait(&endpoint, &a), releasing);
    assert!(waited.is_some());
    assert_eq!(free(&admission), 3);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_after_it_was_granted_gives_the_slot_back() {
    let (admission, endpoint, a) = (Admission::new(4), id("a"), org("a"));
    let slot = try_admit(&admission, &endpoint).unwrap();
    let mut waiting = Box::pin(admission.admit(&endpoint, &a));
    assert!((&mut waiting).now_or_never().is_none());
    drop(slot);
    assert_eq!(free(&admission), 3, "the slot was granted");
    drop(waiting);
    assert_eq!(free(&admission), 4);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_suspect_after_a_failure_until_it_succeeds() {
    let (admission, endpoint) = (Admission::new(8), id("a"));
    assert!(!admission.is_suspect(&endpoint), "unknown");
    for (success, suspect) in [(true, false), (false, true), (false, true), (true, false)] {
        try_admit(&admission, &endpoint).unwrap().concluded(success);
        assert_eq!(admission.is_suspect(&endpoint), suspect);
    }
    drop(try_admit(&admission, &endpoint));
    assert!(
        !admission.is_suspect(&endpoint),
        "an unused slot does not make it suspect"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_attempt_gives_its_slot_back_and_its_endpoint_is_suspect() {
    let (admission, endpoint, slowness) = (Admission::new(8), id("a"), Slowness::default());
    succeeds(&admission, &endpoint).await;
    let mut slot = try_admit(&admission, &endpoint).unwrap();
    let before = tokio::time::Instant::now();
    assert!(timeout(SLOW / 2, slot.ended(&slowness)).await.is_err());
    assert!(!slowness.has_begun());
    assert!(
        timeout(SLOW, slot.ended(&slowness)).await.is_err(),
        "the attempt goes on"
    );
    assert_eq!(before.elapsed(), SLOW / 2 * 3);
    assert!(slowness.has_begun() && !slowness.has_begun());
    assert_eq!((free(&admission), admission.is_suspect(&endpoint)), (8, true));
    slot.concluded(true);
    assert!(
        admission.is_suspect(&endpoint),
        "the attempt succeeded, but slowly"
    );
    assert_eq!(admission.lock().shares.slow_free(), 8);
    assert!(admission.lock().ends.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_oldest_slow_attempt_of_the_organization_with_most_is_ended_for_another() {
    let admission = Admission::new(3);
    let mut slow = Vec::new();
    for (endpoint, organization) in [("b1", "b"), ("a1", "a"), ("a2", "a")] {
        let mut slot = try_admit_of(&admission, &id(endpoint), &org(organization)).unwrap();
        assert!(timeout(SLOW * 2, slot.ended(&Slowness::default())).await.is_err());
        slow.push(slot);
    }
    let mut another = try_admit_of(&admission, &id("c1"), &org("c")).unwrap();
    let slowness = Slowness::default();
    assert!(timeout(SLOW * 2, another.ended(&slowness)).await.is_err());
    let ended: Vec<_> = slow
        .iter_mut()
        .map(|slot| slot.ended(&slowness).now_or_never().is_some())
        .collect();
    assert_eq!(ended, [false, true, false]);
    slow.remove(1).concluded(false);
    assert_eq!(admission.lock().shares.slow_free(), 0);
    drop((slow, another));
    let state = admission.lock();
    assert_eq!((state.shares.slow_free(), state.shares.free()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn the_behaviour_of_idle_endpoints_is_forgotten_at_the_bound() {
    let admission = Admission::new(8);
    let busy = try_admit(&admission, &id("busy"));
    for n in 0..=shares::REMEMBERED_MAX {
        drop(try_admit_of(&admission, &id(n), &org("b")));
    }
    assert!(admission.lock().shares.endpoints() <= shares::REMEMBERED_MAX);
    drop(busy);
    assert_eq!(
        (free(&admission), admission.lock().shares.organizations()),
        (8, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn waiters_of_every_organization_have_their_turn() {
    let admission = Admission::new(1);
    let slot = try_admit_of(&admission, &id("first"), &org("first"));
    let mut waiting = Vec::new();
    // Adds many deliveries of one organization, then one of another.
    for n in 0..30 {
        let (admission, endpoint) = (Arc::clone(&admission), id(n));
        let organization = org(if n < 29 { "many" } else { "one" });
        waiting.push(tokio::spawn(async move {
            admission.wait(&endpoint, &organization).await.unwrap()
        }));
        tokio::task::yield_now().await;
    }
    drop(slot);
    let one = waiting.pop().unwrap();
    let first_of_many = waiting.remove(0).await.unwrap();
    drop(first_of_many);
    drop(
        timeout(WAIT_MAX, one)
            .await
            .expect("the other organization is next")
            .unwrap(),
    );
    for waiting in waiting {
        drop(waiting.await.unwrap());
    }
    assert_eq!(free(&admission), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn slots_are_conserved_when_deliveries_wait_give_up_or_finish(
        slots in 1_usize..40, steps in prop::collection::vec((0_u8..5, 0_u8..6, any::<bool>()), 1..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let admission = Admission::new(slots);
            let (mut held, mut waiting) = (Vec::new(), Vec::new());
            for (action, endpoint, success) in steps {
                let organization = org(endpoint / 2);
                let endpoint = id(endpoint);
                match action {
                    0 => {
                        let admission = Arc::clone(&admission);
                        waiting.push(tokio::spawn(async move { admission.admit(&endpoint, &organization).await }));
                        tokio::task::yield_now().await;
                    }
                    1 => held.extend(try_admit_of(&admission, &endpoint, &organization)),
                    2 if !held.is_empty() => { let slot: Slot = held.remove(0); slot.concluded(success); }
                    3 if !waiting.is_empty() => waiting[0].abort(),
                    4 if !held.is_empty() => {
                        let last = held.len() - 1;
                        let _ = timeout(SLOW, held[last].ended(&Slowness::default())).await;
                    }
                    _ => {}
                }
            }
            drop(held);
            for joined in join_all(waiting).await {
                drop(joined);
            }
            let state = admission.lock();
            assert_eq!((state.shares.free(), state.shares.slow_free()), (slots, slots));
            assert_eq!((state.shares.organizations(), state.waiting_long, state.ends.len()), (0, 0, 0));
        });
    }
}
