//! Which batches of a worker's run are accounted for, by their numbers.
//!
//! A worker numbers its batches from 1 on, and a batch that is dropped uses up its number as well. So a
//! number that never arrives, below one that did, tells of lost records whatever became of the worker.
//! Numbers that a [`Gap`](super::Gap) names are accounted for, too.

/// What a batch says of itself, in the headers of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchStamp {
    /// The name of the worker's run.
    pub worker: String,
    /// The batch's number in it, 1-based.
    pub number: u64,
    /// Every batch up to this number had been confirmed or dropped when this one was made. What has a
    /// greater number may be under way still; if the worker dies, the broker hands out again what those
    /// batches were about.
    pub settled: u64,
    /// When it was made, in Unix milliseconds.
    pub made_ms: u64,
}

/// Consecutive numbers, all of them accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first of them.
    pub first: u64,
    /// The last of them.
    pub last: u64,
    /// When the first of these batches was made, in Unix milliseconds.
    pub from_ms: u64,
    /// When the last of these batches was made, in Unix milliseconds.
    pub until_ms: u64,
}

/// Consecutive numbers that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The first of them.
    pub first: u64,
    /// The last of them.
    pub last: u64,
    /// When the batch before them was made, in Unix milliseconds; when the one after them was if there is
    /// none.
    pub from_ms: u64,
    /// When the batch after them was made, in Unix milliseconds; when the one before them was if none has
    /// come.
    pub until_ms: u64,
}

/// The numbers of one run that are accounted for. Whatever the order in which they come, and however often,
/// the result is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// In order; between two of them at least one number is missing.
    spans: Vec<Span>,
    settled: u64,
}

impl Numbers {
    /// Takes in what a batch says of itself.
    pub fn stamp(&mut self, stamp: &BatchStamp) {
        self.add(Span {
            first: stamp.number,
            last: stamp.number,
            from_ms: stamp.made_ms,
            until_ms: stamp.made_ms,
        });
        self.settle(stamp.settled);
    }

    /// Takes in that every number up to this one was settled.
    pub fn settle(&mut self, settled: u64) {
        self.settled = self.settled.max(settled);
    }

    /// Takes in consecutive numbers. None, if the last is before the first; and there is no number 0.
    pub fn add(&mut self, span: Span) {
        if span.first > span.last || span.first == 0 {
            return;
        }
        // All that touch it become one with it.
        let begin = self.spans.partition_point(|other| other.last < span.first - 1);
        let end = self
            .spans
            .partition_point(|other| other.first <= span.last.saturating_add(1));
        let united = self.spans[begin..end].iter().fold(span, Span::united);
        self.spans.splice(begin..end, [united]);
    }

    /// Takes in all that another reader has seen.
    pub fn merge(&mut self, other: &Self) {
        for span in &other.spans {
            self.add(*span);
        }
        self.settle(other.settled);
    }

    /// What is accounted for, in order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Every number up to this one was confirmed or dropped.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// The greatest number that is accounted for; 0 if none is.
    pub fn last(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.last)
    }

    /// What was settled and is missing, in order.
    pub fn holes(&self) -> Vec<Hole> {
        self.missing_until(self.settled)
    }

    /// What is missing up to a number, in order.
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
    /// Whether the number is one of these.
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
    /// How many numbers are missing.
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
