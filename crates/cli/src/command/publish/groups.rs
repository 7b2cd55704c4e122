//! Publishing over the HTTP API, in groups of events.
//!
//! ```text
//! events -> checked -> groups (500 events or 1 MB) -> four requests at a time -> ids, or why there is none
//! ```
//!
//! If the API refuses some events of a group, the others are sent again without them. A group that is too
//! large for the API is halved. If a group does not arrive in time, because the connection is slow, its halves
//! are sent when no other request is in flight, and from then on requests are small and sent one at a time. They
//! grow with each batch that arrives in time, up to the normal size.

use std::{borrow::Cow, collections::BTreeMap, mem, time::Duration};

use anyhow::anyhow;
use client::{Client, Error, Event, FieldError, Problem};
use futures_util::{StreamExt as _, stream};
use producer::{EventId, Serialized};
use webhook::Envelope;

use super::{
    super::validate,
    failure::Failure,
    group_size::{GROUP_BYTES_MAX, GroupSize},
};

/// The maximum number of events in a request, which is that of the API.
const GROUP_EVENTS_MAX: usize = 500;
/// The maximum number of requests in flight. More are no faster.
const IN_FLIGHT_MAX: usize = 4;
/// The number of events that fill all requests in flight.
pub(super) const EVENTS_MAX: usize = IN_FLIGHT_MAX * GROUP_EVENTS_MAX;

/// The id of an event that is confirmed, or why it is not.
type Outcome = Result<EventId, Failure>;

/// Publishes over the API.
pub(super) struct ApiPublisher {
    client: Client,
    size: GroupSize,
}

impl ApiPublisher {
    pub(super) const fn new(client: Client) -> Self {
        Self {
            client,
            size: GroupSize::new(),
        }
    }

    /// Publishes events, and returns the outcome of each, in their order.
    pub(super) async fn publish(&self, events: &[Serialized]) -> Vec<Outcome> {
        let bytes_max = self.size.bytes_max();
        let in_flight_max = if bytes_max < GROUP_BYTES_MAX {
            1
        } else {
            IN_FLIGHT_MAX
        };
        let (groups, mut outcomes) = grouped(events, bytes_max);
        let (mut late, mut is_slow) = (Vec::new(), false);
        let mut publishing = stream::iter(groups)
            .map(|group| self.send(group, bytes_max))
            .buffer_unordered(in_flight_max);
        while let Some(published) = publishing.next().await {
            outcomes.extend(published.outcomes);
            late.extend(published.late);
            if published.is_slow {
                self.size.shrink();
                is_slow = true;
            }
        }
        while let Some(group) = late.pop() {
            let published = group.publish(&self.client).await;
            outcomes.extend(published.outcomes);
            late.extend(published.late);
        }
        if !is_slow && outcomes.iter().any(|(_, outcome)| outcome.is_ok()) {
            self.size.grow();
        }
        outcomes.sort_by_key(|(place, _)| *place);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// Publishes a group, unless requests have become smaller since it was formed.
    async fn send(&self, group: Group, bytes_max: usize) -> Sent {
        let now_max = self.size.bytes_max();
        if now_max < bytes_max {
            return Sent {
                late: group.parts(now_max),
                ..Sent::default()
            };
        }
        group.publish(&self.client).await
    }
}

/// Divides events into groups of at most this size. Also returns the places and the outcomes of those that are
/// not valid.
fn grouped(events: &[Serialized], bytes_max: usize) -> (Vec<Group>, Vec<(usize, Outcome)>) {
    let (mut groups, mut open, mut outcomes) = (Vec::new(), Group::default(), Vec::new());
    for (place, event) in events.iter().enumerate() {
        let id = match validate::id(event.message_id.as_deref(), event.body.clone()) {
            Ok(id) => id,
            Err(rejection) => {
                outcomes.push((place, Err(Failure::Refused(rejection.to_string()))));
                continue;
            }
        };
        let sent = Event::from_json(event.body.clone());
        if is_alone(event) {
            let mut alone = Group::default();
            alone.add(place, sent.with_id(id));
            groups.push(alone);
            continue;
        }
        if !open.has_room(event.body.len(), bytes_max) {
            groups.push(mem::take(&mut open));
        }
        open.add(place, sent);
    }
    if !open.events.is_empty() {
        groups.push(open);
    }
    (groups, outcomes)
}

/// Returns whether an event cannot be part of a batch: the API derives the ids of a batch's events, from
/// their JSON without the white space around it.
fn is_alone(event: &Serialized) -> bool {
    event.message_id.is_some() || event.body.trim_ascii().len() < event.body.len()
}

/// Events that are sent in one request.
#[derive(Default)]
struct Group {
    /// The place of each event among all that are published.
    places: Vec<usize>,
    events: Vec<Event>,
    bytes: usize,
}

/// What is known after a group was sent.
#[derive(Default)]
struct Sent {
    /// The place and the outcome of each event, except those of `late`.
    outcomes: Vec<(usize, Outcome)>,
    /// Groups to send when no other request is in flight.
    late: Vec<Group>,
    /// Whether a request did not arrive in time.
    is_slow: bool,
}

/// What follows from an error.
#[derive(Debug)]
enum Next {
    /// Send the group again without the events at these indexes, which are refused.
    Without(BTreeMap<usize, String>),
    /// The same, and no other event of the organizations of these events is accepted either.
    WithoutOrganizations(BTreeMap<usize, String>),
    /// Send each half of the group when no other request is in flight. If it is a single event, it is not known
    /// to be published.
    Slow(Failure),
    /// Send each half of the group.
    Halve,
    /// No event of the group is known to be published.
    GiveUp(Failure),
}

impl Group {
    fn has_room(&self, bytes: usize, bytes_max: usize) -> bool {
        let fits = self.bytes + bytes <= bytes_max && self.events.len() < GROUP_EVENTS_MAX;
        fits || self.events.is_empty()
    }

    fn add(&mut self, place: usize, event: Event) {
        self.places.push(place);
        self.bytes += event.json().len();
        self.events.push(event);
    }

    /// Publishes the events that the API does not refuse.
    async fn publish(self, client: &Client) -> Sent {
        let (mut done, mut waiting) = (Sent::default(), vec![self]);
        while let Some(group) = waiting.pop() {
            let next = match group.send(client).await {
                Ok(ids) => {
                    let ids = ids.into_iter().map(Ok);
                    done.outcomes.extend(group.places.into_iter().zip(ids));
                    continue;
                }
                Err(next) => next,
            };
            done.is_slow |= matches!(next, Next::Slow(_));
            match next {
                Next::Without(refused) => waiting.extend(group.without(refused, &mut done.outcomes)),
                Next::WithoutOrganizations(refused) => {
                    let refused = group.of_same_organizations(refused);
                    waiting.extend(group.without(refused, &mut done.outcomes));
                }
                Next::Halve => waiting.extend(group.halves()),
                Next::Slow(_) if group.events.len() > 1 => done.late.extend(group.halves()),
                Next::Slow(failure) | Next::GiveUp(failure) => {
                    let places = group.places.into_iter();
                    let outcomes = places.map(|place| (place, Err(failure.clone())));
                    done.outcomes.extend(outcomes);
                }
            }
        }
        done
    }

    /// Sends one request.
    async fn send(&self, client: &Client) -> Result<Vec<EventId>, Next> {
        let count = self.events.len();
        let sent = match &self.events[..] {
            [event] => client
                .publish_event(event)
                .await
                .map(|published| vec![published.id]),
            events => client.publish_events(events).await.map(|published| published.ids),
        };
        let ids = sent.map_err(|error| next(error, count))?;
        if ids.len() != count {
            let error = anyhow!(
                "the API answered with {} ids for {count} events; check its version",
                ids.len()
            );
            return Err(Next::GiveUp(Failure::lasting(error)));
        }
        Ok(ids.into_iter().map(EventId::new).collect())
    }

    /// Adds the other events of the organizations of these events, and why they are refused. The API names only
    /// some of the events that it refuses.
    fn of_same_organizations(&self, mut refused: BTreeMap<usize, String>) -> BTreeMap<usize, String> {
        let why: BTreeMap<_, _> = refused
            .iter()
            .filter_map(|(index, why)| Some((organization(&self.events[*index])?, why.clone())))
            .collect();
        for (index, event) in self.events.iter().enumerate() {
            if let Some(why) = organization(event).and_then(|organization| why.get(&organization)) {
                refused.entry(index).or_insert_with(|| why.clone());
            }
        }
        refused
    }

    /// Returns the group without the events that are refused, unless none is left, and adds their outcomes.
    fn without(
        self,
        mut refused: BTreeMap<usize, String>,
        outcomes: &mut Vec<(usize, Outcome)>,
    ) -> Option<Self> {
        let mut rest = Self::default();
        for (index, (place, event)) in self.places.into_iter().zip(self.events).enumerate() {
            match refused.remove(&index) {
                Some(why) => outcomes.push((place, Err(Failure::Refused(why)))),
                None => rest.add(place, event),
            }
        }
        (!rest.events.is_empty()).then_some(rest)
    }

    /// Divides the group into parts of at most this size, in bytes, or of one event. The last part comes first.
    fn parts(self, bytes_max: usize) -> Vec<Self> {
        let (mut parts, mut waiting) = (Vec::new(), vec![self]);
        while let Some(group) = waiting.pop() {
            let bytes: usize = group.events.iter().map(|event| event.json().len()).sum();
            if bytes <= bytes_max || group.events.len() == 1 {
                parts.push(group);
            } else {
                waiting.extend(group.halves());
            }
        }
        parts.reverse();
        parts
    }

    fn halves(mut self) -> [Self; 2] {
        let at = self.events.len() / 2;
        let second = Self {
            places: self.places.split_off(at),
            events: self.events.split_off(at),
            bytes: 0,
        };
        [second, self]
    }
}

/// Decides what follows from an error of a request with `count` events.
fn next(error: Error, count: usize) -> Next {
    match &error {
        Error::Unexpected { status: 413, .. } if count > 1 => return Next::Halve,
        Error::Unexpected { status: 413, .. } => return Next::Without(alone(error.to_string())),
        Error::Unexpected { status: 408, .. } => return Next::Slow(slow(error)),
        _ => {}
    }
    let Some(problem) = error.problem() else {
        return Next::GiveUp(error.into());
    };
    let is_one = count == 1;
    match problem.name() {
        "too-large" if !is_one => Next::Halve,
        "too-large" => Next::Without(alone("the event is larger than the API accepts".to_owned())),
        "malformed-request" if is_one => Next::Without(alone(problem.detail.clone())),
        "body-timeout" => Next::Slow(slow(error)),
        name @ ("invalid-fields" | "other-organization") => match refused(problem, count) {
            refused if refused.is_empty() => Next::GiveUp(error.into()),
            refused if name == "invalid-fields" => Next::Without(refused),
            refused => Next::WithoutOrganizations(refused),
        },
        _ => Next::GiveUp(error.into()),
    }
}

/// Returns the organization of an event; `None` if the event is not valid.
fn organization(event: &Event) -> Option<Cow<'_, str>> {
    let envelope = Envelope::parse(event.json()).ok()?;
    Some(envelope.organization_id)
}

fn alone(why: String) -> BTreeMap<usize, String> {
    BTreeMap::from([(0, why)])
}

/// Returns the failure for an event that did not arrive in time. It may when no other request is in flight.
fn slow(error: Error) -> Failure {
    Failure::away(error, Duration::ZERO)
}

/// Returns the events that a problem names, by index, with everything that is wrong with each.
fn refused(problem: &Problem, count: usize) -> BTreeMap<usize, String> {
    let mut refused: BTreeMap<usize, String> = BTreeMap::new();
    for error in &problem.errors {
        let Some((index, why)) = located(error, count) else {
            continue;
        };
        let told = refused.entry(index).or_default();
        if !told.is_empty() {
            told.push_str("; ");
        }
        told.push_str(&why);
    }
    refused
}

/// Returns the index of the event that an error is about, and what is wrong with it.
fn located(error: &FieldError, count: usize) -> Option<(usize, String)> {
    let path = error.pointer.as_deref()?.strip_prefix('/')?;
    let (index, field) = match path.split_once('/') {
        _ if count == 1 => (0, path),
        Some((index, field)) => (index.parse().ok()?, field),
        None => (path.parse().ok()?, ""),
    };
    let why = if field.is_empty() || error.detail.starts_with("field ") {
        error.detail.clone()
    } else {
        format!("field {field:?}: {}", error.detail)
    };
    (index < count).then_some((index, why))
}

#[cfg(test)]
mod tests {
    use super::{super::group_size::SLOW_GROUP_BYTES_MAX, *};

    fn problem(name: &str, errors: &[(&str, &str)]) -> Problem {
        Problem {
            kind: format!("{}{name}", Problem::KINDS),
            title: String::new(),
            status: 422,
            detail: String::new(),
            instance: String::new(),
            errors: errors
                .iter()
                .map(|(pointer, detail)| FieldError::at(*pointer, *detail))
                .collect(),
        }
    }

    fn event(body: String) -> Serialized {
        Serialized::new(body)
    }

    fn valid(lead: usize) -> String {
        format!(
            r#"{{"event":"lead.created","timestamp":1703123456789,"organization_id":"org_1","project_id":"p","lead_id":"{lead}","data":{{}}}}"#
        )
    }

    #[test]
    fn events_are_grouped_up_to_the_bounds_and_invalid_ones_are_left_out() {
        let mut events: Vec<_> = (0..1001).map(|lead| event(valid(lead))).collect();
        events[500] = event("nonsense".to_owned());
        let (groups, outcomes) = grouped(&events, GROUP_BYTES_MAX);
        let sizes: Vec<_> = groups.iter().map(|group| group.events.len()).collect();
        assert_eq!(sizes, [500, 500]);
        assert_eq!(
            (groups[1].places[0], outcomes.len(), outcomes[0].0),
            (501, 1, 500)
        );

        let large = |lead| event(valid(lead).replace("{}", &format!(r#"{{"x":"{}"}}"#, "x".repeat(250_000))));
        let events: Vec<_> = (0..4).map(large).collect();
        for (bytes_max, expected) in [
            (GROUP_BYTES_MAX, &[3, 1][..]),
            (SLOW_GROUP_BYTES_MAX, &[1, 1, 1, 1]),
        ] {
            let (groups, _) = grouped(&events, bytes_max);
            let sizes: Vec<_> = groups.iter().map(|group| group.events.len()).collect();
            assert_eq!(sizes, expected);
        }
    }

    #[test]
    fn an_event_whose_id_a_batch_would_change_is_sent_alone() {
        let given = Serialized {
            message_id: Some("id_1".to_owned()),
            ..event(valid(2))
        };
        let events = [
            event(valid(0)),
            event(format!("{} ", valid(1))),
            given,
            event(valid(3)),
        ];
        let (groups, outcomes) = grouped(&events, GROUP_BYTES_MAX);
        let places: Vec<_> = groups.iter().map(|group| group.places.clone()).collect();
        assert_eq!((places, outcomes.len()), (vec![vec![1], vec![2], vec![0, 3]], 0));
        let spaced = groups[0].events[0].id();
        assert_eq!(spaced, EventId::from_body(&events[1].body));
        assert_eq!(groups[1].events[0].id().as_str(), "id_1");
    }

    #[test]
    fn the_events_that_a_problem_names_are_refused_with_all_that_is_wrong() {
        let errors = [
            ("/3/timestamp", "field \"timestamp\" is in the future"),
            ("/3/organization_id", "expected org_1"),
            ("/7", "the event is nested too deeply"),
            ("/500", "there is no such event"),
            ("", "expected 1 to 500 events"),
        ];
        let refused = refused(&problem("invalid-fields", &errors), 500);
        let expected = [
            (
                3,
                "field \"timestamp\" is in the future; field \"organization_id\": expected org_1",
            ),
            (7, "the event is nested too deeply"),
        ];
        assert_eq!(
            refused,
            BTreeMap::from(expected.map(|(index, why)| (index, why.to_owned())))
        );
    }

    #[test]
    fn events_of_an_organization_that_is_refused_are_refused_without_being_named() {
        let of = |organization: &str, lead| event(valid(lead).replace("org_1", organization));
        let organizations = ["org_2", "org_1", "org_2", "org_3", "org_2"];
        let events: Vec<_> = organizations
            .iter()
            .enumerate()
            .map(|(lead, id)| of(id, lead))
            .collect();
        let group = grouped(&events, GROUP_BYTES_MAX).0.pop().unwrap();
        let named = BTreeMap::from([(0, "expected org_1".to_owned())]);
        let refused = group.of_same_organizations(named);
        assert!(refused.values().all(|why| why == "expected org_1"), "{refused:?}");
        assert_eq!(refused.into_keys().collect::<Vec<_>>(), [0, 2, 4]);
    }

    #[test]
    fn the_fields_of_a_single_event_have_no_index() {
        let errors = [("/organization_id", "expected org_1"), ("/7", "is odd")];
        let refused = refused(&problem("other-organization", &errors), 1);
        assert_eq!(
            refused[&0],
            "field \"organization_id\": expected org_1; field \"7\": is odd"
        );
    }

    #[test]
    fn a_group_is_divided_without_losing_an_event() {
        let events: Vec<_> = (0..5).map(|lead| event(valid(lead))).collect();
        let group = || grouped(&events, GROUP_BYTES_MAX).0.pop().unwrap();
        let places = group().halves().map(|half| half.places);
        assert_eq!(places, [vec![2, 3, 4], vec![0, 1]]);
        let parts = group().parts(2 * valid(0).len());
        let places: Vec<_> = parts.into_iter().map(|part| part.places).collect();
        assert_eq!(places, [vec![3, 4], vec![2], vec![0, 1]]);
        let mut outcomes = Vec::new();
        let refused = [(1, "why".to_owned()), (4, "why".to_owned())];
        let rest = group().without(refused.into(), &mut outcomes).unwrap();
        assert_eq!((rest.places, rest.events.len()), (vec![0, 2, 3], 3));
        let refused: Vec<_> = outcomes.iter().map(|(place, _)| *place).collect();
        assert_eq!(refused, [1, 4]);
    }
}
