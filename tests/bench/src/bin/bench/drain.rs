//! Measures how fast a queue that was filled beforehand is drained, and what that costs.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{
    cases::{Case, Drain, Load, Side},
    options::Options,
    setup::{Cpu, Setup},
};

/// The results of a case.
#[derive(Serialize)]
pub(crate) struct Drained {
    pub(crate) name: &'static str,
    about: &'static str,
    deliveries: usize,
    load: Load,
    runs: Vec<Run>,
    medians: Vec<Run>,
    ratios: Vec<Ratio>,
}

/// The result of one drain, or the medians of all drains of a side.
#[derive(Clone, Serialize)]
struct Run {
    /// The number of the round; 0 for medians.
    round: usize,
    side: &'static str,
    /// The deliveries per second, from the first receipt to the last.
    per_second: f64,
    cpu_us: Cpu,
    peak_mib: f64,
    /// The number of connections that the client opened.
    connections: f64,
}

/// The ratios of one side's results to another's: for each result, the median of the ratios of all rounds.
#[derive(Serialize)]
pub(crate) struct Ratio {
    side: &'static str,
    to: &'static str,
    pub(crate) per_second: f64,
    pub(crate) cpu: f64,
    peak: f64,
}

/// Measures a case, and prints a table meanwhile.
pub(crate) async fn run(case: &Case, drain: &Drain, options: &Options) -> Drained {
    let events = options.events(drain);
    let deliveries = events * drain.load.fan_out;
    println!(
        "\n{}: {}; {deliveries} deliveries a drain\n",
        case.name, case.about
    );
    println!("{HEADER}");
    let mut runs = Vec::new();
    for round in 1..=options.rounds(drain) {
        for side in in_turn(drain.sides, round) {
            let name = format!("{}-{}-{round}", case.name, side.name);
            let run = measure(name, round, &drain.load, side, events, options).await;
            println!("{run}");
            runs.push(run);
        }
    }
    let medians = drain.sides.iter().map(|side| median(&runs, side.name)).collect();
    let mut ratios = Vec::new();
    for (place, side) in drain.sides.iter().enumerate() {
        for to in &drain.sides[..place.min(2)] {
            ratios.push(Ratio::of(&runs, side.name, to.name));
        }
    }
    for ratio in &ratios {
        println!("{ratio}");
    }
    Drained {
        name: case.name,
        about: case.about,
        deliveries,
        load: drain.load,
        runs,
        medians,
        ratios,
    }
}

/// Returns the sides in the order in which they are measured. The order rotates from round to round, because
/// the first side has the advantage of a cooler machine.
fn in_turn(sides: &[Side], round: usize) -> impl Iterator<Item = &Side> {
    sides.iter().cycle().skip(round % sides.len()).take(sides.len())
}

async fn measure(
    name: String,
    round: usize,
    load: &Load,
    side: &Side,
    events: usize,
    options: &Options,
) -> Run {
    let setup = Setup::new(name, load, side, events, options).await;
    let amqp = setup.installation.amqp();
    setup.events.preload(amqp, events).await;
    assert_eq!(amqp.ready("events").await as usize, events, "what is queued");
    let measured = setup.start().end().await;
    let at_ns = &measured.receipts.at_ns;
    let took = Duration::from_nanos(at_ns.iter().max().unwrap() - at_ns.iter().min().unwrap());
    Run {
        round,
        side: side.name,
        per_second: (at_ns.len() - 1) as f64 / took.as_secs_f64(),
        cpu_us: measured.cpu_us,
        peak_mib: measured.peak_mib,
        connections: measured.receipts.connections as f64,
    }
}

impl Drained {
    /// Returns the median of a side's deliveries per second.
    pub(crate) fn per_second(&self, side: &str) -> Option<f64> {
        self.median(side).map(|run| run.per_second)
    }

    /// Returns the median of a client's processor time, in microseconds per delivery.
    pub(crate) fn cpu_us(&self, side: &str) -> Option<f64> {
        self.median(side).map(|run| run.cpu_us.client)
    }

    fn median(&self, side: &str) -> Option<&Run> {
        self.medians.iter().find(|run| run.side == side)
    }

    pub(crate) fn ratio(&self, side: &str, to: &str) -> Option<&Ratio> {
        self.ratios
            .iter()
            .find(|ratio| ratio.side == side && ratio.to == to)
    }
}

/// Returns the median. For an even number of values, this is the mean of the two in the middle.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

/// Returns the median of each result separately.
fn median(runs: &[Run], side: &'static str) -> Run {
    let of_side: Vec<_> = runs.iter().filter(|run| run.side == side).collect();
    let maybe = |of: fn(&Run) -> Option<f64>| {
        let values: Vec<_> = of_side.iter().filter_map(|run| of(run)).collect();
        (!values.is_empty()).then(|| middle(values))
    };
    let of = |of: fn(&Run) -> f64| middle(of_side.iter().map(|run| of(run)).collect());
    Run {
        round: 0,
        side,
        per_second: of(|run| run.per_second),
        cpu_us: Cpu {
            client: of(|run| run.cpu_us.client),
            broker: maybe(|run| run.cpu_us.broker),
            receiver: of(|run| run.cpu_us.receiver),
            recorder: maybe(|run| run.cpu_us.recorder),
            database: maybe(|run| run.cpu_us.database),
        },
        peak_mib: of(|run| run.peak_mib),
        connections: of(|run| run.connections),
    }
}

impl Ratio {
    fn of(runs: &[Run], side: &'static str, to: &'static str) -> Self {
        let of_side = |side| runs.iter().filter(move |run| run.side == side);
        let ratio = |of: fn(&Run) -> f64| {
            // Each side has one run per round, in the order of the rounds.
            let pairs = of_side(side).zip(of_side(to));
            middle(pairs.map(|(one, other)| of(one) / of(other)).collect())
        };
        Self {
            side,
            to,
            per_second: ratio(|run| run.per_second),
            cpu: ratio(|run| run.cpu_us.client),
            peak: ratio(|run| run.peak_mib),
        }
    }
}

const HEADER: &str = "| round | client | deliveries/s | CPU µs/delivery | broker | receiver | recorder | database \
    | peak memory MiB | connections |\n|---|---|---|---|---|---|---|---|---|---|";

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            round,
            side,
            per_second,
            cpu_us,
            peak_mib,
            connections,
        } = self;
        let maybe = |us: Option<f64>| us.map_or_else(String::new, |us| format!("{us:.1}"));
        write!(
            f,
            "| {round} | {side} | {per_second:.0} | {:.1} | {} | {:.1} | {} | {} | {peak_mib:.1} | {connections} |",
            cpu_us.client,
            maybe(cpu_us.broker),
            cpu_us.receiver,
            maybe(cpu_us.recorder),
            maybe(cpu_us.database),
        )
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            side,
            to,
            per_second,
            cpu,
            peak,
        } = self;
        write!(
            f,
            "| median | {side} / {to} | {per_second:.2} | {cpu:.2} | | | | | {peak:.2} | |"
        )
    }
}
