//! Reads the rows that an audit's statements return.

use webhook::{
    DeliveryId, EndpointId, EventId, OrganizationId,
    journal::{DeliveryState, Gap},
};

use super::{
    super::{
        deliveries::state,
        totals::{Counts, MINUTE_MS},
    },
    Late, Unbalanced, Unrecorded,
};
use crate::columns::Columns;

/// A finding, with the total number of findings and the number of those that a gap explains.
pub(super) type Found<T> = (T, (u64, u64));

/// An event, and when the last event whose record may still arrive had its first delivery, if this is one of them.
pub(super) type Suspect = (Unbalanced, Option<u64>);

/// The events of one minute.
pub(super) struct Events {
    pub(super) minute_ms: u64,
    pub(super) count: u64,
    pub(super) matched: u64,
    pub(super) mark: u64,
}

/// The deliveries of one minute that are in one state.
pub(super) struct Deliveries {
    pub(super) minute_ms: u64,
    pub(super) resent: bool,
    pub(super) state: DeliveryState,
    pub(super) count: u64,
    pub(super) mark: u64,
}

impl Events {
    /// Returns the counts for the comparison with the totals.
    pub(super) fn counts(&self) -> (u64, Counts) {
        let counts = Counts {
            events: self.count as i64,
            matched: self.matched as i64,
            ..Counts::default()
        };
        (self.minute_ms, counts)
    }
}

impl Deliveries {
    /// Returns the counts for the comparison with the totals.
    pub(super) fn counts(&self) -> (u64, Counts) {
        let counts = Counts {
            deliveries: self.count as i64,
            ..Counts::default()
        };
        (self.minute_ms, counts)
    }
}

/// The pending deliveries of all times.
pub(super) struct Pending {
    pub(super) unsent: u64,
    pub(super) settled: u64,
    pub(super) in_gaps: u64,
    pub(super) in_hand: u64,
    pub(super) in_hand_until_ms: u64,
}

pub(super) fn read_events(row: &dyn Columns) -> Result<Events, sqlx::Error> {
    Ok(Events {
        minute_ms: minute_ms(row)?,
        count: row.number("events")?,
        matched: row.number("matched")?,
        mark: row.number("mark")?,
    })
}

pub(super) fn read_deliveries(row: &dyn Columns) -> Result<Deliveries, sqlx::Error> {
    Ok(Deliveries {
        minute_ms: minute_ms(row)?,
        resent: row.integer("resent")? != 0,
        state: state(row)?,
        count: row.number("deliveries")?,
        mark: row.number("mark")?,
    })
}

fn minute_ms(row: &dyn Columns) -> Result<u64, sqlx::Error> {
    Ok(row.number::<u64>("minute")?.saturating_mul(MINUTE_MS))
}

pub(super) fn read_count(row: &dyn Columns) -> Result<(DeliveryState, u64), sqlx::Error> {
    Ok((state(row)?, row.number("deliveries")?))
}

pub(super) fn read_pending(row: &dyn Columns) -> Result<Pending, sqlx::Error> {
    Ok(Pending {
        unsent: row.number("unsent")?,
        settled: row.number("settled")?,
        in_gaps: row.number("in_gaps")?,
        in_hand: row.number("in_hand")?,
        in_hand_until_ms: row.number("in_hand_until_ms")?,
    })
}

pub(super) fn read_roles(row: &dyn Columns) -> Result<(u64, u64), sqlx::Error> {
    Ok((row.number("recorders")?, row.number("in_hand")?))
}

pub(super) fn read_oldest(row: &dyn Columns) -> Result<Option<u64>, sqlx::Error> {
    row.maybe_number("oldest_ms")
}

pub(super) fn read_suspects(row: &dyn Columns) -> Result<u64, sqlx::Error> {
    row.number("suspects")
}

/// Reads the number of findings and the number of those that a gap explains.
fn read_counts(row: &dyn Columns) -> Result<(u64, u64), sqlx::Error> {
    Ok((row.number("total")?, row.number("in_gaps")?))
}

pub(super) fn read_gap(row: &dyn Columns) -> Result<Gap, sqlx::Error> {
    Ok(Gap {
        worker: row.text("worker")?,
        from_ms: row.number("from_ms")?,
        until_ms: row.number("until_ms")?,
        count: row.number("record_count")?,
        batches: None,
    })
}

pub(super) fn read_unbalanced(row: &dyn Columns) -> Result<Found<Suspect>, sqlx::Error> {
    let unbalanced = Unbalanced {
        organization_id: OrganizationId::new(row.text("organization_id")?),
        event_id: EventId::new(row.text("id")?),
        received_ms: row.number("at_ms")?,
        matched: row.maybe_number("matched")?,
        deliveries: row.number("deliveries")?,
    };
    Ok(((unbalanced, row.maybe_number("awaited_ms")?), read_counts(row)?))
}

pub(super) fn read_unrecorded(row: &dyn Columns) -> Result<Found<Unrecorded>, sqlx::Error> {
    let unrecorded = Unrecorded {
        delivery_id: DeliveryId::new(row.text("id")?),
        endpoint_id: EndpointId::new(row.text("endpoint_id")?),
        created_ms: row.number("at_ms")?,
        attempts: row.number("attempts")?,
        recorded: row.number("recorded")?,
    };
    Ok((unrecorded, read_counts(row)?))
}

pub(super) fn read_late(row: &dyn Columns) -> Result<Found<Late>, sqlx::Error> {
    let late = Late {
        delivery_id: DeliveryId::new(row.text("id")?),
        organization_id: OrganizationId::new(row.text("organization_id")?),
        event_id: EventId::new(row.text("event_id")?),
        endpoint_id: EndpointId::new(row.text("endpoint_id")?),
        created_ms: row.number("at_ms")?,
        next_ms: row.number("next_ms")?,
    };
    Ok((late, read_counts(row)?))
}
