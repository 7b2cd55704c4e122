//! All benchmark cases, as data. `tests/bench.sh --list` prints them.

use serde::Serialize;

/// A benchmark case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) what: What,
}

pub(crate) enum What {
    /// A filled queue is drained, by each side in turn.
    Drain(Drain),
    /// Events are published at a steady pace, regardless of the progress of earlier ones. Measured once at
    /// each rate.
    Paced {
        rates: &'static [Rate],
        side: Side,
        shows: Shows,
    },
    /// Producers publish as fast as they can.
    Publish,
}

pub(crate) struct Drain {
    pub(crate) load: Load,
    /// The maximum number of deliveries in a drain. It is below `--deliveries` where that many would not fit
    /// into the broker's memory, or would take too long.
    pub(crate) deliveries_max: usize,
    /// The number of drains for each side, unless `--rounds` overrides it.
    pub(crate) rounds: usize,
    /// The first side is the baseline of all others. The third and later sides are also compared with the
    /// second.
    pub(crate) sides: &'static [Side],
}

/// What is delivered and how it is received. This is the same for all sides of a case.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Load {
    pub(crate) body_bytes: usize,
    /// The number of endpoints of each event.
    pub(crate) fan_out: usize,
    /// Whether the receiver answers `Connection: close`.
    pub(crate) is_closing: bool,
    /// Whether the receiver uses TLS.
    pub(crate) is_tls: bool,
}

/// The client that delivers, and its environment.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
    pub(crate) journal: Journal,
    /// The number of organizations, among which the events are distributed evenly.
    pub(crate) organizations: usize,
    /// The first attempt of every n-th delivery is answered with 500; 0 for none.
    pub(crate) failing_every: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Raw,
    /// This many `magnetite worker` processes.
    Workers(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Journal {
    /// `journal.enabled = false`.
    Off,
    /// The default, but without a recorder: the batches stay in their queue.
    Queued,
    /// A recorder stores the journal in PostgreSQL. The drain is complete when everything is stored.
    Stored,
}

/// What a measurement at a steady pace shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shows {
    Latency,
    /// How late second attempts are.
    Lateness,
    /// How the worker's memory grows, over `--steady-seconds` instead of `--seconds`.
    Memory,
}

/// A rate in events per second.
#[derive(Clone, Copy)]
pub(crate) enum Rate {
    Fixed(usize),
    /// Half of the rate that the worker reached in the base case of this run.
    HalfOfPeak,
}

pub(crate) const USUAL: Load = Load {
    body_bytes: 1024,
    fan_out: 1,
    is_closing: false,
    is_tls: false,
};
const RAW: Side = Side {
    name: "raw",
    client: Client::Raw,
    journal: Journal::Off,
    organizations: 1,
    failing_every: 0,
};
const WORKER: Side = Side {
    name: "worker",
    client: Client::Workers(1),
    journal: Journal::Queued,
    ..RAW
};
const DRAIN: Drain = Drain {
    load: USUAL,
    deliveries_max: usize::MAX,
    rounds: 3,
    sides: &[RAW, WORKER],
};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "base",
        about: "1 KiB, one endpoint, journal on, no recorder",
        what: What::Drain(Drain { rounds: 5, ..DRAIN }),
    },
    Case {
        name: "16k",
        about: "bodies of 16 KiB",
        what: What::Drain(Drain {
            load: Load {
                body_bytes: 16 << 10,
                ..USUAL
            },
            deliveries_max: 50_000,
            ..DRAIN
        }),
    },
    Case {
        name: "128k",
        about: "bodies of 128 KiB",
        what: What::Drain(Drain {
            load: Load {
                body_bytes: 128 << 10,
                ..USUAL
            },
            deliveries_max: 10_000,
            ..DRAIN
        }),
    },
    Case {
        name: "fan-out-4",
        about: "each event to four endpoints",
        what: What::Drain(Drain {
            load: Load { fan_out: 4, ..USUAL },
            rounds: 5,
            ..DRAIN
        }),
    },
    Case {
        name: "fan-out-32",
        about: "each event to 32 endpoints, more than the worker attempts inline",
        what: What::Drain(Drain {
            load: Load { fan_out: 32, ..USUAL },
            ..DRAIN
        }),
    },
    Case {
        name: "failing",
        about: "5 % of the deliveries fail once; the raw loop has none that fail",
        what: What::Drain(Drain {
            sides: &[
                RAW,
                Side {
                    name: "failing",
                    failing_every: 20,
                    ..WORKER
                },
            ],
            ..DRAIN
        }),
    },
    Case {
        name: "endpoints",
        about: "10,000 organizations with an endpoint each; the raw loop has one",
        what: What::Drain(Drain {
            sides: &[
                RAW,
                WORKER,
                Side {
                    name: "10000-endpoints",
                    organizations: 10_000,
                    ..WORKER
                },
            ],
            ..DRAIN
        }),
    },
    Case {
        name: "tls",
        about: "HTTPS receivers",
        what: What::Drain(Drain {
            load: Load {
                is_tls: true,
                ..USUAL
            },
            ..DRAIN
        }),
    },
    Case {
        name: "close",
        about: "receivers that answer Connection: close",
        what: What::Drain(Drain {
            load: Load {
                is_closing: true,
                ..USUAL
            },
            deliveries_max: 50_000,
            ..DRAIN
        }),
    },
    Case {
        name: "journal",
        about: "without the journal, and with all of it: recorder and PostgreSQL",
        what: What::Drain(Drain {
            sides: &[
                RAW,
                WORKER,
                Side {
                    name: "no-journal",
                    journal: Journal::Off,
                    ..WORKER
                },
                Side {
                    name: "stored",
                    journal: Journal::Stored,
                    ..WORKER
                },
            ],
            ..DRAIN
        }),
    },
    Case {
        name: "workers",
        about: "two workers on one queue",
        what: What::Drain(Drain {
            sides: &[
                RAW,
                WORKER,
                Side {
                    name: "two-workers",
                    client: Client::Workers(2),
                    ..WORKER
                },
            ],
            ..DRAIN
        }),
    },
    Case {
        name: "latency",
        about: "from when an event was due to its receipt: 100/s, 1,000/s, half of base's peak",
        what: What::Paced {
            rates: &[Rate::Fixed(100), Rate::Fixed(1000), Rate::HalfOfPeak],
            side: WORKER,
            shows: Shows::Latency,
        },
    },
    Case {
        name: "retries",
        about: "how late second attempts are, when 1,000/s first ones fail",
        what: What::Paced {
            rates: &[Rate::Fixed(1000)],
            side: Side {
                failing_every: 1,
                ..WORKER
            },
            shows: Shows::Lateness,
        },
    },
    Case {
        name: "publish",
        about: "how fast events are published: one by one, in batches, and by the command over the API",
        what: What::Publish,
    },
    Case {
        name: "steady",
        about: "whether the worker's memory grows, at 2,000/s",
        what: What::Paced {
            rates: &[Rate::Fixed(2000)],
            side: WORKER,
            shows: Shows::Memory,
        },
    },
];
