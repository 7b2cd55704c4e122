use std::collections::HashMap as Map;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn id(name: impl std::fmt::Display) -> EndpointId {
    EndpointId::new(name.to_string())
}

fn org(name: impl std::fmt::Display) -> OrganizationId {
    OrganizationId::new(name.to_string())
}

fn try_take(shares: &mut Shares, endpoint: &EndpointId, organization: &OrganizationId) -> Option<u64> {
    let allowed = shares.decide(endpoint, organization, Instant::now()).is_ok();
    allowed.then(|| shares.take(endpoint, organization, Instant::now()))
}

/// Takes a slot for each of this many endpoints of the organization, as long as it gets any.
fn take_each(shares: &mut Shares, organization: &str, endpoints: usize) -> Vec<(EndpointId, u64)> {
    let each = (0..endpoints).filter_map(|n| {
        let endpoint = id(format!("{organization}-{n}"));
        let slot = try_take(shares, &endpoint, &org(organization))?;
        Some((endpoint, slot))
    });
    each.collect()
}

fn slow_down(shares: &mut Shares, slots: &[(EndpointId, u64)]) {
    for (endpoint, slot) in slots {
        shares.slow_down(endpoint, *slot, Instant::now());
    }
}

/// Makes one attempt that succeeds or fails.
fn tried(shares: &mut Shares, endpoint: &EndpointId, organization: &OrganizationId, success: bool) {
    let slot = try_take(shares, endpoint, organization).unwrap();
    shares.give_back(endpoint, slot, Some(success), Instant::now());
}

/// Makes one attempt that fails after two seconds without a response.
fn hung(shares: &mut Shares, endpoint: &EndpointId, organization: &OrganizationId) {
    let slot = try_take(shares, endpoint, organization).unwrap();
    shares.slow_down(endpoint, slot, Instant::now() + SECOND);
    shares.give_back(endpoint, slot, Some(false), Instant::now() + 2 * SECOND);
}

#[test]
fn one_endpoint_gets_a_quarter_of_what_is_free_and_never_less_than_one() {
    for (slots, expected) in [(1, 1), (4, 1), (5, 1), (20, 4), (512, 102)] {
        let (mut shares, a) = (Shares::new(slots), org("a"));
        tried(&mut shares, &id("a"), &a, true);
        let held = std::iter::from_fn(|| try_take(&mut shares, &id("a"), &a)).count();
        assert_eq!(held, expected, "{slots} slots");
    }
}

#[test]
fn organizations_that_take_what_they_get_leave_as_much_for_the_next() {
    for organizations in [1, 2, 7, 60] {
        let mut shares = Shares::new(512);
        let each = (512 - 512 / KEPT_SHARE) / (organizations + 1);
        for _ in 0..512 {
            for n in 0..organizations {
                // A new endpoint each time, about which nothing is known.
                let endpoint = id(shares.next_slot);
                try_take(&mut shares, &endpoint, &org(n));
            }
        }
        assert!(
            (each..=each + 1).contains(&(shares.free() - 512 / KEPT_SHARE)),
            "{organizations}: {} free",
            shares.free()
        );
        let held = shares.organizations.values().map(|holder| holder.held);
        assert!(held.clone().all(|held| (each..=each + 1).contains(&held)));
    }
}

#[test]
fn what_is_kept_goes_to_organizations_that_hold_none_or_give_slots_back_quickly() {
    let mut shares = Shares::new(512);
    for n in 0..60 {
        take_each(&mut shares, &n.to_string(), 10);
    }
    assert!(
        (1..=512 / KEPT_SHARE).contains(&shares.free()),
        "{}",
        shares.free()
    );
    let (quick, other) = (org("quick"), org("other"));
    let first = try_take(&mut shares, &id("quick-0"), &quick).unwrap();
    assert!(try_take(&mut shares, &id("other-0"), &other).is_some());
    shares.waits(&id("quick-0"), &quick);
    let returned = Instant::now() + Duration::from_millis(5);
    shares.give_back(&id("quick-0"), first, Some(true), returned);
    let more = |shares: &mut Shares, organization| take_each(shares, organization, 10).len();
    assert_eq!(more(&mut shares, "other"), 0, "the organization holds one slot");
    assert!(more(&mut shares, "quick") > 1);
}

#[test]
fn endpoints_that_are_not_known_to_be_well_share_half_of_the_slots() {
    let mut shares = Shares::new(512);
    for n in 0..600 {
        hung(&mut shares, &id(format!("a-{n}")), &org("a"));
        hung(&mut shares, &id(format!("b-{n}")), &org("b"));
    }
    assert_eq!(
        take_each(&mut shares, "a", 600).len(),
        120,
        "half of the unwell slots"
    );
    let b = take_each(&mut shares, "b", 600).len();
    assert!((59..=61).contains(&b), "half of the remaining unwell slots: {b}");
    tried(&mut shares, &id("well"), &org("c"), true);
    assert!(try_take(&mut shares, &id("well"), &org("c")).is_some());
}

#[test]
fn an_endpoint_that_was_never_tried_has_one_slot_like_a_well_one() {
    let (mut shares, a, b) = (Shares::new(8), org("a"), org("b"));
    // Fill the half of the slots that unwell endpoints may hold.
    for n in 0..4 {
        let organization = org(format!("unwell-{n}"));
        hung(&mut shares, &id(n), &organization);
        assert!(try_take(&mut shares, &id(n), &organization).is_some());
    }
    hung(&mut shares, &id("hung"), &a);
    assert_eq!(
        shares.decide(&id("hung"), &a, Instant::now()),
        Err(Refusal::Unwell)
    );
    let slot = try_take(&mut shares, &id("new"), &b).unwrap();
    assert!(
        shares.decide(&id("new"), &b, Instant::now()).is_err(),
        "no second slot"
    );
    shares.give_back(&id("new"), slot, Some(true), Instant::now());
    tried(&mut shares, &id("new"), &b, true);
}

#[test]
fn a_slow_attempt_holds_no_slot_but_counts_towards_the_share_of_its_endpoint() {
    let (mut shares, a) = (Shares::new(64), org("a"));
    tried(&mut shares, &id("a"), &a, true);
    let mut in_flight = 0;
    while let Some(slot) = try_take(&mut shares, &id("a"), &a) {
        shares.slow_down(&id("a"), slot, Instant::now());
        in_flight += 1;
    }
    assert_eq!(
        (shares.free(), shares.decide(&id("a"), &a, Instant::now())),
        (64, Err(Refusal::Endpoint))
    );
    assert!((12..=16).contains(&in_flight), "{in_flight}");
    assert_eq!(shares.slow_free(), 64 - in_flight);
    assert!(
        shares.decide(&id("b"), &a, Instant::now()).is_ok(),
        "another endpoint of the organization"
    );
}

#[test]
fn slots_of_an_endpoint_count_as_unwell_from_when_it_becomes_so_until_it_succeeds() {
    let (mut shares, a) = (Shares::new(64), org("a"));
    tried(&mut shares, &id("a"), &a, true);
    let held: Vec<_> = (0..4)
        .map(|_| try_take(&mut shares, &id("a"), &a).unwrap())
        .collect();
    assert_eq!(shares.unwell, 0);
    shares.give_back(&id("a"), held[0], Some(false), Instant::now());
    assert_eq!(
        shares.unwell, 2,
        "after a quick failure one slot counts as healthy"
    );
    shares.slow_down(&id("a"), held[1], Instant::now());
    shares.give_back(&id("a"), held[2], Some(true), Instant::now());
    assert_eq!(shares.unwell, 1, "one attempt is still slow");
    shares.give_back(&id("a"), held[1], Some(true), Instant::now() + SECOND);
    assert_eq!(shares.unwell, 1, "the last attempt was slow");
    shares.give_back(&id("a"), held[3], Some(true), Instant::now());
    assert_eq!((shares.unwell, shares.free(), shares.slow_free()), (0, 64, 64));
}

/// Sixty organizations whose endpoints hang hold the whole unwell half of the slots, including its reserved
/// part.
#[test]
fn a_healthy_endpoint_that_fails_once_does_not_wait_for_those_that_hang() {
    let (mut shares, healthy) = (Shares::new(512), org("healthy"));
    for n in 0..60 {
        for endpoint in 0..10 {
            hung(&mut shares, &id(format!("{n}-{endpoint}")), &org(n));
        }
    }
    tried(&mut shares, &id("healthy"), &healthy, true);
    for n in 0..60 {
        take_each(&mut shares, &n.to_string(), 10);
    }
    assert_eq!(shares.unwell, shares.unwell_max());
    let now = Instant::now();
    for _ in 0..10 {
        let slot = try_take(&mut shares, &id("healthy"), &healthy).unwrap();
        shares.give_back(&id("healthy"), slot, Some(false), now + Duration::from_millis(5));
    }
    let slot = try_take(&mut shares, &id("healthy"), &healthy).unwrap();
    assert_eq!(
        shares.decide(&id("healthy"), &healthy, now),
        Err(Refusal::Unwell),
        "no second slot"
    );
    // A failure after a second does not count as quick.
    shares.slow_down(&id("healthy"), slot, now + SECOND);
    shares.give_back(&id("healthy"), slot, Some(false), now + 2 * SECOND);
    assert_eq!(shares.decide(&id("healthy"), &healthy, now), Err(Refusal::Unwell));
}

/// The organization was forgotten when it held no slot. The endpoint that requests one responded in 5 ms, ten
/// seconds earlier.
#[test]
fn an_organization_that_was_idle_is_promised_a_slot_by_the_pace_of_its_endpoint() {
    let (mut shares, healthy, began) = (Shares::new(512), org("healthy"), Instant::now());
    for endpoint in ["a", "b"] {
        let slot = shares.take(&id(endpoint), &healthy, began);
        let answered = began + Duration::from_millis(5);
        shares.give_back(&id(endpoint), slot, Some(true), answered);
    }
    assert_eq!(shares.organizations(), 0);
    for n in 0..60 {
        take_each(&mut shares, &n.to_string(), 10);
    }
    let later = began + 10 * SECOND;
    shares.take(&id("a"), &healthy, later);
    let asked = later + Duration::from_millis(1);
    assert_eq!(
        shares.decide(&id("b"), &healthy, asked),
        Err(Refusal::Organization)
    );
    let promise = shares.promised_wait(&id("b"), &healthy, Refusal::Organization, asked);
    let promise = promise.unwrap();
    assert!(promise.is_founded && promise.within < Duration::from_millis(10));
}

/// The slot of the endpoint counts like that of a well one. No slot of the unwell half will be given back for
/// it, and its own slots say nothing about that half.
#[test]
fn an_endpoint_that_failed_quickly_is_promised_a_slot_of_its_organization() {
    let (mut shares, a, began) = (Shares::new(64), org("a"), Instant::now());
    for _ in 0..20 {
        tried(&mut shares, &id("failing"), &a, false);
    }
    hung(&mut shares, &id("hanging"), &a);
    for endpoint in ["failing", "hanging", "other"] {
        shares.take(&id(endpoint), &a, began);
    }
    assert_eq!(shares.unwell, 1);
    let slot = shares.next_slot + 1;
    assert_eq!(shares.take(&id("failing-2"), &a, began), slot);
    shares.give_back(
        &id("failing-2"),
        slot,
        Some(false),
        began + Duration::from_millis(5),
    );
    let slot = shares.take(&id("failing-2"), &a, began);
    shares.give_back(
        &id("failing-2"),
        slot,
        Some(false),
        began + Duration::from_millis(5),
    );
    assert!(
        shares.organizations[&a].unwell_pace.is_unknown(),
        "the slot of the unwell half is held"
    );

    let (mut shares, slots) = (Shares::new(64), ["one", "two"]);
    for endpoint in slots {
        tried(&mut shares, &id(endpoint), &a, true);
        shares.take(&id(endpoint), &a, began);
    }
    tried(&mut shares, &id("failing"), &a, false);
    shares.take(&id("failing"), &a, began);
    assert_eq!(shares.organizations[&a].unwell, 0);
    let promise = shares.promised_wait(&id("failing"), &a, Refusal::Organization, began);
    assert!(promise.is_some(), "the delivery is deferred");
}

#[test]
fn six_hundred_endpoints_that_hang_cost_another_organization_nothing() {
    let (mut shares, healthy) = (Shares::new(512), org("healthy"));
    let mut waves = Vec::new();
    for _ in 0..4 {
        let wave = take_each(&mut shares, "a", 600);
        assert!(shares.free() >= 256);
        for _ in 0..64 {
            tried(&mut shares, &id("healthy"), &healthy, true);
        }
        slow_down(&mut shares, &wave);
        waves.push(wave);
    }
    assert_eq!((shares.free(), shares.slow_free()), (512, 0));
    for (endpoint, slot) in waves.concat() {
        shares.give_back(&endpoint, slot, Some(false), Instant::now());
    }
    assert_eq!((shares.free(), shares.slow_free()), (512, 512));
    assert_eq!((shares.organizations(), shares.crowds.len()), (0, 0));
}

/// The next action of one of several organizations.
#[derive(Clone, Copy, Debug)]
enum Step {
    Take(u8, u8),
    SlowDown(usize),
    GiveBack(usize, Option<bool>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..6, 0_u8..4).prop_map(|(organization, endpoint)| Step::Take(organization, endpoint)),
        1 => any::<usize>().prop_map(Step::SlowDown),
        2 => (any::<usize>(), any::<Option<bool>>()).prop_map(|(at, success)| Step::GiveBack(at, success)),
    ]
}

/// Compares the counters with a recount of everything that is held.
fn assert_counted(shares: &Shares, held: &[(String, EndpointId, u64)], slow: &[(String, EndpointId, u64)]) {
    assert_eq!(shares.free, shares.slots - held.len());
    assert_eq!(shares.slow_free, shares.slots - slow.len());
    let mut by_organization: Map<&str, (usize, usize)> = Map::new();
    for (organization, ..) in held {
        by_organization.entry(organization).or_default().0 += 1;
    }
    for (organization, ..) in slow {
        by_organization.entry(organization).or_default().1 += 1;
    }
    assert_eq!(shares.organizations.len(), by_organization.len());
    for (organization, (held, slow)) in by_organization {
        let holder = &shares.organizations[&org(organization)];
        assert_eq!((holder.held, holder.slow.len()), (held, slow));
        let endpoints = shares.endpoints.values();
        let unwell = endpoints.filter(|behaviour| behaviour.organization == org(organization));
        assert_eq!(holder.unwell, unwell.map(Behaviour::unwell).sum::<usize>());
    }
    let unwell = shares.endpoints.values().map(Behaviour::unwell);
    assert_eq!(shares.unwell, unwell.sum::<usize>());
    let crowds = shares.organizations.iter();
    let crowds: BTreeSet<_> = crowds.filter_map(|(id, holder)| Crowd::of(id, holder)).collect();
    assert!(shares.crowds == crowds);
}

proptest! {
    #[test]
    fn slots_are_conserved_and_no_share_is_exceeded(
        slots in 1_usize..48, steps in prop::collection::vec(step(), 1..300),
    ) {
        let (mut shares, now) = (Shares::new(slots), Instant::now());
        let (mut held, mut slow): (Vec<(String, EndpointId, u64)>, Vec<_>) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Take(organization, endpoint) => {
                    let (name, endpoint) = (organization.to_string(), id(format!("{organization}-{endpoint}")));
                    let (free, of_organization) = (shares.free, held.iter().filter(|(of, ..)| *of == name).count());
                    let next_is_unwell = shares.endpoints.get(&endpoint).is_some_and(Behaviour::next_is_unwell);
                    if let Some(slot) = try_take(&mut shares, &endpoint, &org(organization)) {
                        prop_assert!(of_organization < free.max(1));
                        prop_assert!(!next_is_unwell || shares.unwell <= shares.unwell_max());
                        held.push((name, endpoint, slot));
                    } else {
                        // A refusal always has a reason: some share is used up, or others hold all slots.
                        prop_assert!(free == 0 || of_organization > 0 || next_is_unwell || slow.iter().any(|(_, of, _)| *of == endpoint));
                    }
                }
                Step::SlowDown(at) if !held.is_empty() => {
                    let attempt = held.remove(at % held.len());
                    let most = shares.organizations.values().map(|holder| holder.slow.len()).max();
                    let full = shares.slow_free == 0;
                    let ended = shares.slow_down(&attempt.1, attempt.2, now);
                    prop_assert_eq!(ended.is_some(), full);
                    if let Some(ended) = ended {
                        let at = slow.iter().position(|(_, _, slot)| *slot == ended).unwrap();
                        let (organization, endpoint, slot): (String, EndpointId, u64) = slow.remove(at);
                        let of_organization = slow.iter().filter(|(of, ..)| *of == organization).count();
                        prop_assert_eq!(Some(of_organization + 1), most, "its organization held most");
                        prop_assert!(slow.iter().all(|(of, _, other)| *of != organization || *other > slot), "the oldest was ended");
                        slow.push(attempt);
                        shares.give_back(&endpoint, slot, Some(false), now);
                    } else {
                        slow.push(attempt);
                    }
                }
                Step::GiveBack(at, success) if !held.is_empty() || !slow.is_empty() => {
                    let at = at % (held.len() + slow.len());
                    let (_, endpoint, slot) = if at < held.len() { held.remove(at) } else { slow.remove(at - held.len()) };
                    shares.give_back(&endpoint, slot, success, now);
                }
                _ => {}
            }
            assert_counted(&shares, &held, &slow);
        }
    }

    #[test]
    fn each_organization_leaves_at_least_half_of_the_free_slots_to_the_next(
        slots in 2_usize..600, others in prop::collection::vec((0_u8..8, 0_u16..100), 0..400),
    ) {
        let mut shares = Shares::new(slots);
        for (organization, endpoint) in others {
            try_take(&mut shares, &id(format!("{organization}-{endpoint}")), &org(organization));
        }
        let organizations = shares.organizations() as u32;
        prop_assert!(shares.free() >= slots >> organizations);
        prop_assume!(shares.free() > 0);
        prop_assert!(try_take(&mut shares, &id("new"), &org("new")).is_some());
    }
}

mod alone {
    use super::*;

    /// Measures a thousand decisions among this many endpoints and organizations.
    fn decisions(among: usize) -> Duration {
        let mut shares = Shares::new(512);
        for n in 0..among {
            tried(&mut shares, &id(n), &org(n), n % 2 == 0);
        }
        for n in 0..among.min(300) {
            try_take(&mut shares, &id(n), &org(n));
        }
        let rounds = (0..20).map(|_| {
            let began = Instant::now();
            for n in 0..1000 {
                let (endpoint, organization) = (id(n % among), org(n % among));
                if let Some(slot) = try_take(&mut shares, &endpoint, &organization) {
                    shares.give_back(&endpoint, slot, Some(true), began);
                }
            }
            began.elapsed()
        });
        rounds.min().unwrap()
    }

    #[test]
    fn a_decision_takes_the_same_time_among_ten_endpoints_and_among_fifty_thousand() {
        let (few, many) = (decisions(10), decisions(50_000));
        assert!(
            many < few * 10,
            "{few:?} among ten, {many:?} among fifty thousand"
        );
    }
}
