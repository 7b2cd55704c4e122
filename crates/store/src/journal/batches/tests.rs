use webhook::journal::BatchStamp;

use super::*;

const NOW_MS: u64 = 1_703_123_456_789;

fn span(first: u64, last: u64) -> Span {
    Span {
        first,
        last,
        from_ms: NOW_MS - 100_000 + first,
        until_ms: NOW_MS - 100_000 + last,
    }
}

fn row(first: u64, last: u64, recorded_ms: u64) -> Row {
    Row {
        span: span(first, last),
        settled: last - 1,
        recorded_ms,
    }
}

fn came(of: &[u64]) -> Numbers {
    let mut numbers = Numbers::default();
    for number in of {
        numbers.stamp(&BatchStamp {
            worker: "w".to_owned(),
            number: *number,
            settled: number - 1,
            made_ms: NOW_MS - 100_000 + number,
        });
    }
    numbers
}

fn run(made: u64) -> Run {
    Run {
        worker: "w".to_owned(),
        now_ms: NOW_MS,
        started_ms: NOW_MS - 200_000,
        seen_ms: NOW_MS - 90_000,
        made,
        made_ms: NOW_MS - 90_000,
        ..Run::default()
    }
}

/// Returns the losses, each with the number of milliseconds until it is certain.
fn lost_with(rows: &[Row], run: Option<Run>, due: u64) -> Vec<(LostCause, u64)> {
    let rows: Vec<_> = rows.iter().map(|row| ("w".to_owned(), *row)).collect();
    let runs: Vec<_> = run.into_iter().collect();
    let due = BTreeMap::from([("w".to_owned(), due)]);
    let lost = lost(&rows, &runs, &due, NOW_MS);
    assert!(lost.iter().all(|lost| lost.from_ms <= lost.until_ms), "{lost:?}");
    lost.into_iter()
        .map(|lost| (lost.cause, lost.certain_in_ms))
        .collect()
}

/// Returns the causes of the losses, and checks that all of them are certain.
fn causes(rows: &[Row], run: Option<Run>) -> Vec<LostCause> {
    let lost = lost_with(rows, run, 0).into_iter();
    lost.map(|(cause, certain_in_ms)| {
        assert_eq!(certain_in_ms, 0, "{cause:?}");
        cause
    })
    .collect()
}

#[test]
fn the_next_number_makes_a_span_longer_and_what_comes_again_changes_nothing() {
    let stored = [row(1, 5, 0)];
    let change = Change::new(&stored, &came(&[6]));
    assert_eq!(change.written, [(span(1, 6), 5)]);
    assert_eq!((change.covered, change.gaps), (vec![], vec![]));
    assert_eq!(Change::new(&stored, &came(&[3, 5])), Change::default());
}

#[test]
fn a_number_that_comes_late_unites_what_is_before_and_after_it() {
    let change = Change::new(&[row(1, 5, 0), row(7, 9, 0)], &came(&[6]));
    assert_eq!(change.written, [(span(1, 9), 8)]);
    assert_eq!(change.covered, [span(7, 9)]);
}

#[test]
fn so_many_spans_are_kept_and_what_lies_between_those_that_are_united_becomes_a_gap() {
    let stored: Vec<_> = (0..SPANS_MAX as u64)
        .map(|n| row(3 * n + 1, 3 * n + 2, 0))
        .collect();
    let change = Change::new(&stored, &came(&[3 * SPANS_MAX as u64 + 1]));
    assert_eq!(change.gaps.len(), 1);
    assert_eq!((change.gaps[0].first, change.gaps[0].last), (3, 3));
    assert_eq!(change.covered, [span(4, 5)]);
}

#[test]
fn a_run_that_was_killed_and_dropped_nothing_has_lost_nothing() {
    assert_eq!(causes(&[row(1, 9, 0)], Some(run(9))), []);
    assert_eq!(causes(&[row(1, 9, 0)], Some(run(8))), []);
    assert_eq!(causes(&[row(1, 9, 0)], None), []);
    assert_eq!(causes(&[], Some(run(0))), []);
}

#[test]
fn a_hole_is_lost_once_it_is_old() {
    let rows = [row(1, 5, 0), row(8, 9, NOW_MS - LOST_AFTER_MS)];
    let batches = 2;
    assert_eq!(causes(&rows, None), [LostCause::Missing { batches }]);
    let rows = [row(1, 5, 0), row(8, 9, NOW_MS - LOST_AFTER_MS + 7)];
    assert_eq!(lost_with(&rows, None, 0), [(LostCause::Missing { batches }, 7)]);
}

#[test]
fn what_was_confirmed_in_the_end_and_never_came_is_lost() {
    let batches = 3;
    let missing = [LostCause::MissingInTheEnd { batches }];
    assert_eq!(causes(&[row(1, 9, 0)], Some(run(12))), missing);
    assert_eq!(causes(&[], Some(run(3))), missing);
}

#[test]
fn what_is_missing_in_the_end_since_lately_is_uncertain_and_what_was_announced_just_now_is_on_its_way() {
    let fresh = || Run {
        made_ms: NOW_MS - LOST_AFTER_MS + 1,
        ..run(12)
    };
    let lost = |due| lost_with(&[row(1, 9, 0)], Some(fresh()), due);
    for due in [0, 9] {
        assert_eq!(lost(due), []);
    }
    for (due, batches) in [(10, 1), (12, 3), (99, 3)] {
        assert_eq!(lost(due), [(LostCause::MissingInTheEnd { batches }, 1)]);
    }
}

#[test]
fn a_run_that_ended_while_it_dropped_records_has_lost_them_at_once() {
    let dropping = |batch| Run {
        seen_ms: NOW_MS - 4_000,
        dropping_since_ms: Some(NOW_MS - 5_000),
        dropping_batch: batch,
        records_dropped: 40,
        ..run(9)
    };
    let lost = |is_heard| {
        [LostCause::Dropping {
            records_min: 40,
            is_heard,
        }]
    };
    assert_eq!(causes(&[row(1, 9, 0)], Some(dropping(10))), lost(false));
    assert_eq!(causes(&[], Some(dropping(1))), lost(false));
    let heard = Run {
        seen_ms: NOW_MS,
        ..dropping(10)
    };
    assert_eq!(causes(&[row(1, 9, 0)], Some(heard)), lost(true));
    // The gap was recorded, and the worker died before it could announce that.
    assert_eq!(causes(&[row(1, 11, 0)], Some(dropping(10))), []);
}

#[test]
fn times_besides_the_table_explain_as_gaps_do() {
    assert_eq!(gaps_with(Vec::new()), "gaps");
    assert_eq!(
        gaps_with(vec![(6, 7), (1, 5), (2, 3)]),
        "(SELECT from_ms, until_ms FROM gaps UNION ALL SELECT 1, 5 UNION ALL SELECT 6, 7)"
    );
    let text = gaps_with((0..300).map(|n| (10 * n, 10 * n + 5)).collect());
    assert_eq!(text.matches("UNION").count(), 256);
    assert!(text.ends_with("SELECT 2550, 2995)"), "{text}");
}
