//! The assessment of an audit as text and as JSON.

use runtime::time;
use serde_json::{Value, json};
use service::{
    audit::{Assessment, Conclusion, Finding, Queues},
    view,
};
use store::{Audit, Lost, LostCause, SetAside, StateCounts};
use webhook::journal::Gap;

use crate::{command::rejected, output::printable};

/// Returns the assessment as lines of text.
pub(super) fn text(assessment: &Assessment) -> Vec<String> {
    let mut lines = sums(assessment);
    lines.extend(left_over(assessment));
    lines.extend(assessment.audit.gaps.iter().map(gap));
    lines.extend(assessment.audit.lost.iter().map(gap_of));
    lines.extend(assessment.audit.set_aside.iter().map(aside));
    lines.extend(assessment.findings.iter().flat_map(finding));
    lines.extend(conclusion_in_words(assessment));
    lines
}

/// Returns the window, the counts in it, and the queues.
fn sums(assessment: &Assessment) -> Vec<String> {
    let (since_ms, until_ms) = assessment.window_ms;
    let Audit {
        events,
        matched,
        first_runs,
        resends,
        ..
    } = &assessment.audit;
    let sign = if *matched == all(first_runs) { "=" } else { "!=" };
    let Queues {
        journal,
        dead,
        due,
        delayed,
        ..
    } = assessment.queues;
    vec![
        format!(
            "from     {} to {}",
            time::second(since_ms),
            time::second(until_ms)
        ),
        format!("events   {events}"),
        format!("matched  {matched} {sign} {}", sum(first_runs)),
        format!("resends  {} = {}", all(resends), sum(resends)),
        format!("queues   journal {journal}, dead {dead}, due {due}, delayed {delayed}"),
    ]
}

/// Returns what no sum contains: messages delayed by earlier schedules, rejected messages, and runs that
/// were not sent.
fn left_over(assessment: &Assessment) -> Vec<String> {
    let (earlier, unsent) = (assessment.queues.earlier, assessment.audit.unsent);
    let mut lines = Vec::new();
    if earlier > 0 {
        lines.push(format!("         and {earlier} delayed by an earlier schedule"));
    }
    if !assessment.rejected.is_empty() {
        lines.push(format!(
            "rejected {}: these messages could not be processed; `magnetite rejected list` says why",
            rejected::by_reason(&assessment.rejected)
        ));
    }
    if unsent > 0 {
        lines.push(format!(
            "unsent   {unsent} resends were requested and not sent yet; to send them, repeat the `magnetite endpoint recover` or \
             `magnetite delivery resend` that requested them"
        ));
    }
    lines
}

/// Returns the result in words; `None` if findings have already said that something is wrong.
fn conclusion_in_words(assessment: &Assessment) -> Option<String> {
    let gaps = assessment.audit.gaps.len() + assessment.audit.lost.len() + assessment.audit.set_aside.len();
    match (assessment.conclusion(), gaps) {
        (Conclusion::Wrong { .. }, _) => None,
        (Conclusion::NotKnown { ask_again_ms }, _) => Some(format!(
            "unknown  it is not known yet whether the books balance: run the audit again at {}",
            time::second(ask_again_ms)
        )),
        (Conclusion::Balance, 0) => Some("ok       the books balance".to_owned()),
        (Conclusion::Balance, 1) => {
            Some("ok       the books balance, except for what is missing in the gap".to_owned())
        }
        (Conclusion::Balance, gaps) => Some(format!(
            "ok       the books balance, except for what is missing in the {gaps} gaps"
        )),
    }
}

/// Returns one object per line: the balance, the queues, each gap, each finding.
pub(super) fn json(assessment: &Assessment) -> Vec<Value> {
    let (since_ms, until_ms) = assessment.window_ms;
    let audit = &assessment.audit;
    let (conclusion, ask_again_ms) = match assessment.conclusion() {
        Conclusion::Balance => ("ok", None),
        Conclusion::NotKnown { ask_again_ms } => ("unknown", Some(ask_again_ms)),
        Conclusion::Wrong { .. } => ("wrong", None),
    };
    let mut objects = vec![
        json!({
            "kind": "balance",
            "since_ms": since_ms,
            "until_ms": until_ms,
            "events": audit.events,
            "matched": audit.matched,
            "deliveries": view::states(&audit.first_runs),
            "resends": view::states(&audit.resends),
            "unsent": audit.unsent,
            "rejected": assessment.rejected.iter().map(|(_, count)| count).sum::<u64>(),
            "balances": conclusion == "ok",
            "verdict": conclusion,
            "ask_again_ms": ask_again_ms,
        }),
        json!({
            "kind": "queues",
            "journal": assessment.queues.journal,
            "dead": assessment.queues.dead,
            "due": assessment.queues.due,
            "delayed": assessment.queues.delayed,
            "delayed_by_earlier_schedules": assessment.queues.earlier,
            "held_by_workers": audit.held_by_workers,
        }),
    ];
    objects.extend(audit.gaps.iter().map(|gap| {
        json!({
            "kind": "gap",
            "worker": gap.worker,
            "from_ms": gap.from_ms,
            "until_ms": gap.until_ms,
            "count": (gap.count > 0).then_some(gap.count),
            "cause": "refused",
        })
    }));
    objects.extend(audit.lost.iter().map(gap_as_object));
    objects.extend(audit.set_aside.iter().map(aside_as_object));
    objects.extend(assessment.findings.iter().map(finding_as_object));
    objects
}

/// Returns the lines of a finding.
fn finding(finding: &Finding) -> Vec<String> {
    let Finding {
        count,
        unexplained,
        detail,
        next,
        ..
    } = finding;
    let mark = if finding.fails() { "WRONG  " } else { "unknown" };
    let (mark, explained) = match (finding.is_unexplained(), count - unexplained) {
        (true, 0) => (mark, String::new()),
        (true, explained) => (mark, format!(" ({explained} of them in a gap)")),
        (false, _) => ("in gap ", String::new()),
    };
    let mut lines = vec![format!(
        "{mark}  {detail}: {count}{explained}\n         -> {next}"
    )];
    lines.extend(finding.ids.iter().map(|id| format!("         {}", printable(id))));
    if (finding.ids.len() as u64) < *count && !finding.ids.is_empty() {
        lines.push(format!("         and {} more", count - finding.ids.len() as u64));
    }
    lines
}

fn finding_as_object(finding: &Finding) -> Value {
    json!({
        "kind": "finding",
        "finding": finding.name,
        "fails": finding.fails(),
        "known_at_ms": finding.known_at_ms(),
        "count": finding.count,
        "in_gaps": finding.count - finding.unexplained,
        "detail": finding.detail,
        "next": finding.next,
        "ids": finding.ids,
    })
}

/// Describes records that a worker dropped.
fn gap(gap: &Gap) -> String {
    let (from, until) = (time::millisecond(gap.from_ms), time::millisecond(gap.until_ms));
    let worker = printable(&gap.worker);
    let count = match gap.count {
        0 => "an unknown number of".to_owned(),
        count => format!("up to {count}"),
    };
    format!(
        "gap      worker {worker} dropped {count} records from {from} to {until}: the broker accepted none"
    )
}

/// Describes records that are lost.
fn gap_of(lost: &Lost) -> String {
    let Lost {
        worker,
        from_ms,
        until_ms,
        cause,
        certain_in_ms,
    } = lost;
    let (worker, from, until) = (
        printable(worker),
        time::millisecond(*from_ms),
        time::millisecond(*until_ms),
    );
    match cause {
        LostCause::Dropping {
            is_heard: true,
            records_min,
        } => format!(
            "gap      worker {worker} has been dropping records since {from}, {records_min} so far: the broker accepts none"
        ),
        LostCause::Dropping {
            is_heard: false,
            records_min,
        } => format!(
            "gap      worker {worker} dropped records from {from} until it ended at about {until}: an unknown number of records, \
             at least {records_min}"
        ),
        LostCause::Missing { batches } | LostCause::MissingInTheEnd { batches } => {
            let come = if *certain_in_ms == 0 {
                "never arrived"
            } else {
                "have not arrived yet"
            };
            format!(
                "gap      batches of worker {worker}, made from {from} to {until}, {come}: {batches}, with an unknown number of records"
            )
        }
    }
}

fn gap_as_object(lost: &Lost) -> Value {
    let (cause, count_min, batches) = match lost.cause {
        LostCause::Dropping {
            is_heard: true,
            records_min,
        } => ("dropping", records_min, None),
        LostCause::Dropping {
            is_heard: false,
            records_min,
        } => ("ended_dropping", records_min, None),
        LostCause::Missing { batches } | LostCause::MissingInTheEnd { batches } => ("lost", 0, Some(batches)),
    };
    json!({
        "kind": "gap",
        "worker": lost.worker,
        "from_ms": lost.from_ms,
        "until_ms": lost.until_ms,
        "count": null,
        "count_min": count_min,
        "cause": cause,
        "batches": batches,
        "certain_in_ms": lost.certain_in_ms,
    })
}

/// Describes messages that recorders set aside.
fn aside(aside: &SetAside) -> String {
    let what = if aside.source == "dead" {
        "dead letters"
    } else {
        "messages of the journal"
    };
    let records = match aside.records() {
        Some(records) if aside.source == "journal" => format!("with {records} records"),
        Some(_) => "not in the books".to_owned(),
        None => "with an unknown number of records".to_owned(),
    };
    format!(
        "gap      {what} set aside from {} to {} ({}): {}, {records}; `magnetite rejected list` has them, and once the reason is gone, \
         `magnetite rejected redrive ID...` records them",
        time::millisecond(aside.from_ms),
        time::millisecond(aside.until_ms),
        printable(&aside.reason),
        aside.messages,
    )
}

fn aside_as_object(aside: &SetAside) -> Value {
    json!({
        "kind": "gap",
        "cause": "set_aside",
        "source": aside.source,
        "reason": aside.reason,
        "messages": aside.messages,
        "from_ms": aside.from_ms,
        "until_ms": aside.until_ms,
        "count": aside.records(),
    })
}

fn all(counts: &StateCounts) -> u64 {
    counts.delivered + counts.dead + counts.cancelled + counts.pending
}

fn sum(counts: &StateCounts) -> String {
    let StateCounts {
        pending,
        cancelled,
        dead,
        delivered,
    } = counts;
    format!("delivered {delivered} + dead {dead} + cancelled {cancelled} + pending {pending}")
}

#[cfg(test)]
mod tests;
