//! The batch numbers of a worker's run, to detect lost batches.
//!
//! A worker numbers its batches starting at 1, and a batch that it drops uses up its number. A number that
//! does not arrive although a later one did is therefore evidence of lost records, even if the worker has
//! died. Numbers that a [`Gap`](super::Gap) names are also accounted for.

/// The origin and number of a batch, from the headers of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchStamp {
    /// The name of the worker's run.
    pub worker: String,
    /// The number of the batch within the run, 1-based.
    pub number: u64,
    /// Every batch up to this number was already confirmed or dropped when this batch was made. Batches with
    /// greater numbers may be unconfirmed. If the worker dies, the broker redelivers the messages that those
    /// batches describe.
    pub settled: u64,
    /// When the batch was made, in Unix milliseconds.
    pub made_ms: u64,
}

/// A range of consecutive numbers that are all accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
    /// When the first of these batches was made, in Unix milliseconds.
    pub from_ms: u64,
    /// When the last of these batches was made, in Unix milliseconds.
    pub until_ms: u64,
}

/// A range of consecutive numbers that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
    /// When the batch before the range was made, in Unix milliseconds; if there is none, when the batch after
    /// the range was made.
    pub from_ms: u64,
    /// When the batch after the range was made, in Unix milliseconds; if none has arrived, when the batch
    /// before the range was made.
    pub until_ms: u64,
}

/// The numbers of one run that are accounted for. The result does not depend on the order in which numbers
/// are added, nor on duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// In ascending order. At least one number is missing between two spans.
    spans: Vec<Span>,
    settled: u64,
}

impl Numbers {
    /// Adds the number of a batch, and that all earlier batches up to `settled` are settled.
    pub fn stamp(&mut self, stamp: &BatchStamp) {
        self.add(Span {
            first: stamp.number,
            last: stamp.number,
            from_ms: stamp.made_ms,
            until_ms: stamp.made_ms,
        });
        self.settle(stamp.settled);
    }

    /// Records that every number up to this one is settled, that is, confirmed or dropped.
    pub fn settle(&mut self, settled: u64) {
        self.settled = self.settled.max(settled);
    }

    /// Adds a range of numbers. Does nothing if the last number is before the first, or if the first one is
    /// 0, which is not a valid number.
    pub fn add(&mut self, span: Span) {
        if span.first > span.last || span.first == 0 {
            return;
        }
        // Merges all spans that overlap or adjoin the new one.
        let begin = self.spans.partition_point(|other| other.last < span.first - 1);
        let end = self
            .spans
            .partition_point(|other| other.first <= span.last.saturating_add(1));
        let united = self.spans[begin..end].iter().fold(span, Span::united);
        self.spans.splice(begin..end, [united]);
    }

    /// Adds everything that another reader has seen.
    pub fn merge(&mut self, other: &Self) {
        for span in &other.spans {
            self.add(*span);
        }
        self.settle(other.settled);
    }

    /// Returns the numbers that are accounted for, in ascending order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Returns the greatest settled number: every number up to this one was confirmed or dropped.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Returns the greatest number that is accounted for; 0 if there is none.
    pub fn last(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.last)
    }

    /// Returns the settled numbers that are missing, in ascending order.
    pub fn holes(&self) -> Vec<Hole> {
        self.missing_until(self.settled)
    }

    /// Returns the missing numbers up to `last`, in ascending order.
    pub fn missing_until(&self, last: u64) -> Vec<Hole> {
        let mut holes = Vec::new();
        let mut before: Option<&Span> = None;
        for span in &self.spans {
            let first = before.map_or(1, |before| before.last.saturating_add(1));
            let from_ms = before.map_or(span.from_ms, |before| before.until_ms);
            holes.push((first, span.first - 1, from_ms, span.from_ms));
            before = Some(span);
        }
        let (first, at_ms) = before.map_or((1, 0), |span| (span.last.saturating_add(1), span.until_ms));
        holes.push((first, last, at_ms, at_ms));
        let holes = holes.into_iter().map(|(first, end, from_ms, until_ms)| Hole {
            first,
            last: end.min(last),
            from_ms: from_ms.min(until_ms),
            until_ms: until_ms.max(from_ms),
        });
        holes.filter(|hole| hole.first <= hole.last).collect()
    }
}

impl Span {
    /// Returns whether the span contains the number.
    pub fn contains(&self, number: u64) -> bool {
        (self.first..=self.last).contains(&number)
    }

    fn united(self, other: &Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            from_ms: self.from_ms.min(other.from_ms),
            until_ms: self.until_ms.max(other.until_ms),
        }
    }
}

impl Hole {
    /// Returns how many numbers are missing.
    pub fn batches(&self) -> u64 {
        self.last - self.first + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp(number: u64) -> BatchStamp {
        BatchStamp {
            worker: "w".to_owned(),
            number,
            settled: number - 1,
            made_ms: 1_000 + number,
        }
    }

    fn numbers(of: &[u64]) -> Numbers {
        let mut numbers = Numbers::default();
        for number in of {
            numbers.stamp(&stamp(*number));
        }
        numbers
    }

    fn holes(numbers: &Numbers) -> Vec<(u64, u64)> {
        let holes = numbers.holes().into_iter();
        holes.map(|hole| (hole.first, hole.last)).collect()
    }

    #[test]
    fn a_hole_is_a_settled_number_that_is_missing() {
        assert_eq!(holes(&Numbers::default()), []);
        assert_eq!(holes(&numbers(&[1, 2, 3])), []);
        assert_eq!(holes(&numbers(&[3, 1])), [(2, 2)]);
        assert_eq!(holes(&numbers(&[4, 8])), [(1, 3), (5, 7)]);
        let hole = numbers(&[4, 8]).holes()[1];
        assert_eq!((hole.from_ms, hole.until_ms, hole.batches()), (1_004, 1_008, 3));
    }

    #[test]
    fn what_is_missing_among_batches_that_are_under_way_together_is_no_hole() {
        let mut numbers = numbers(&[1, 2]);
        numbers.stamp(&BatchStamp {
            settled: 2,
            ..stamp(5)
        });
        assert_eq!(holes(&numbers), []);
        numbers.stamp(&BatchStamp {
            settled: 5,
            ..stamp(6)
        });
        assert_eq!(holes(&numbers), [(3, 4)]);
    }

    #[test]
    fn what_is_missing_in_the_end_is_found_up_to_the_last_that_was_made() {
        let missing = numbers(&[1, 2]).missing_until(4);
        assert_eq!((missing[0].first, missing[0].last), (3, 4));
        assert_eq!(Numbers::default().missing_until(2)[0].batches(), 2);
        assert_eq!(numbers(&[1, 2]).missing_until(2), []);
    }

    proptest! {
        #[test]
        fn numbers_are_the_same_in_every_order(
            (of, again) in prop::collection::vec(1..40_u64, 0..40)
                .prop_flat_map(|of| (Just(of.clone()), Just(of).prop_shuffle())),
            cut in 0..40_usize,
        ) {
            let (once, mut merged) = (numbers(&of), numbers(&again[..cut.min(again.len())]));
            merged.merge(&numbers(&again[cut.min(again.len())..]));
            merged.merge(&once);
            prop_assert_eq!(&merged, &once);
            for number in 1..=once.settled() {
                let is_missing = once.holes().iter().any(|hole| (hole.first..=hole.last).contains(&number));
                prop_assert_eq!(is_missing, !of.contains(&number));
            }
        }
    }
}
