//! RabbitMQ policies, and their effects on our queues.
//!
//! RabbitMQ applies the matching policy with the highest priority to a queue, and in addition the matching
//! operator policy with the highest priority. How the policies and the queue's own arguments are merged
//! depends on the setting: for limits and times, the smaller value applies; for `overflow` and `expires`, the
//! policy's value; and for dead-lettering, the argument's value.
//!
//! Policies may set everything that keeps a confirmed message in its queue for as long as it has to wait. A
//! maximum length is acceptable if a full queue refuses publishes, because the publisher is informed of that.

use std::fmt;

use fancy_regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Argument, Queue};

/// A policy or an operator policy, as the management API lists it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Policy {
    pub(crate) name: String,
    pattern: String,
    #[serde(rename = "apply-to")]
    apply_to: String,
    definition: Map<String, Value>,
    #[serde(default)]
    priority: i64,
}

/// All policies of a vhost.
pub(crate) struct Policies {
    pub(crate) regular: Vec<Policy>,
    pub(crate) operator: Vec<Policy>,
    /// The broker's major version; `None` if unknown.
    pub(crate) major: Option<u32>,
}

/// A policy setting that makes a queue lose messages or deliver them at the wrong time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harm {
    /// The queue's full name.
    pub queue: String,
    /// The policy's name.
    pub policy: String,
    /// Whether it is an operator policy.
    pub is_operators: bool,
    /// The setting and its value.
    pub setting: String,
    /// The effect on the queue.
    pub effect: String,
}

/// A policy setting that is in effect.
struct Setting<'a> {
    value: &'a Value,
    policy: &'a Policy,
    is_operators: bool,
}

/// The policies that apply to a queue.
#[derive(Clone, Copy)]
struct Applied<'a> {
    regular: Option<&'a Policy>,
    operator: Option<&'a Policy>,
}

const REJECT: &str = "reject-publish";
/// All settings that can do harm.
const SETTINGS: [&str; 7] = [
    "message-ttl",
    "expires",
    "max-length",
    "max-length-bytes",
    "overflow",
    "dead-letter-exchange",
    "delivery-limit",
];

impl Policies {
    /// Returns the policy settings that do harm to this queue. `applied` is the name of the policy that
    /// applies according to the broker.
    pub(crate) fn harms(&self, queue: &Queue, applied: Option<&str>) -> Vec<Harm> {
        let applied = Applied {
            regular: applied.and_then(|name| self.regular.iter().find(|policy| policy.name == name)),
            operator: first_match(&self.operator, &queue.name),
        };
        let harm = |key| {
            let setting = applied.setting(key)?;
            let effect = effect(queue, applied, key, setting.value, self.major)?;
            Some(Harm {
                queue: queue.name.clone(),
                policy: setting.policy.name.clone(),
                is_operators: setting.is_operators,
                setting: format!("{key} = {}", setting.value),
                effect,
            })
        };
        SETTINGS.into_iter().filter_map(harm).collect()
    }
}

/// Returns the matching policy with the highest priority. A pattern that this regex engine cannot read counts
/// as a match, because a false warning about a policy is better than a missing one.
fn first_match<'a>(policies: &'a [Policy], queue: &str) -> Option<&'a Policy> {
    let applies = |policy: &&Policy| {
        let is_for_queues = ["all", "queues", "quorum_queues"].contains(&policy.apply_to.as_str());
        let is_match = || Regex::new(&policy.pattern).and_then(|regex| regex.is_match(queue));
        is_for_queues && is_match().unwrap_or(true)
    };
    policies
        .iter()
        .filter(applies)
        .max_by_key(|policy| policy.priority)
}

impl<'a> Applied<'a> {
    fn setting(self, key: &str) -> Option<Setting<'a>> {
        let of = |policy: Option<&'a Policy>, is_operators| {
            let policy = policy?;
            let value = policy.definition.get(key)?;
            Some(Setting {
                value,
                policy,
                is_operators,
            })
        };
        match (of(self.regular, false), of(self.operator, true)) {
            (Some(regular), Some(operator)) => {
                let regular_is_less = regular.value.as_i64() < operator.value.as_i64();
                Some(if regular_is_less { regular } else { operator })
            }
            (regular, operator) => operator.or(regular),
        }
    }

    fn overflow(self, queue: &Queue) -> Option<&'a str> {
        match self.setting("overflow") {
            Some(setting) => setting.value.as_str(),
            None if queue.text("x-overflow") == Some(REJECT) => Some(REJECT),
            None => None,
        }
    }
}

/// Returns the effect of the setting on the queue if it does harm.
fn effect(
    queue: &Queue,
    applied: Applied<'_>,
    key: &str,
    value: &Value,
    major: Option<u32>,
) -> Option<String> {
    let number = value.as_i64();
    let refuses = applied.overflow(queue) == Some(REJECT);
    match key {
        "message-ttl" => match (queue.number("x-message-ttl"), number?) {
            (Some(own), policys) if policys >= own => None,
            (Some(own), policys) => Some(format!(
                "messages leave the queue after {policys} ms instead of {own} ms"
            )),
            (None, policys) => Some(format!(
                "messages that wait longer than {policys} ms are removed from the queue"
            )),
        },
        "expires" => match (queue.number("x-expires"), number?) {
            (Some(own), policys) if policys >= own => None,
            (_, policys) => Some(format!(
                "the queue is deleted with all its messages after {policys} ms without a consumer"
            )),
        },
        "max-length" | "max-length-bytes" if refuses => None,
        "max-length" | "max-length-bytes" => {
            Some("the queue drops its oldest messages when it is full".to_owned())
        }
        "overflow" if refuses || queue.text("x-overflow").is_none() => None,
        "overflow" => Some(
            "the queue drops its oldest messages when it is full, and messages that it dead-letters can be lost"
                .to_owned(),
        ),
        "dead-letter-exchange" if queue.text("x-dead-letter-exchange").is_some() => None,
        "dead-letter-exchange" => Some(
            "messages that the queue removes are dead-lettered to another exchange, and can be lost"
                .to_owned(),
        ),
        "delivery-limit" => match (queue.number("x-delivery-limit")?, number?) {
            (own, policys) if policys >= own => None,
            // RabbitMQ 4.x takes a negative number as "no limit", and then applies the argument.
            (_, policys) if policys < 0 && major.is_some_and(|major| major >= 4) => None,
            (_, policys) => Some(format!(
                "messages are removed from the queue after {policys} returns, although nothing is wrong with them"
            )),
        },
        _ => None,
    }
}

impl Queue {
    fn text(&self, key: &str) -> Option<&str> {
        match self.argument(key)? {
            Argument::Text(text) => Some(text),
            Argument::Number(_) => None,
        }
    }

    fn number(&self, key: &str) -> Option<i64> {
        match self.argument(key)? {
            Argument::Number(number) => Some(*number),
            Argument::Text(_) => None,
        }
    }
}

impl Harm {
    /// Returns the command that clears the policy.
    pub fn fix(&self) -> String {
        let command = if self.is_operators {
            "clear_operator_policy"
        } else {
            "clear_policy"
        };
        format!(
            "rabbitmqctl {command} {:?} (with -p VHOST), or change it so that it does not match this queue",
            self.policy
        )
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_operators {
            "operator policy"
        } else {
            "policy"
        };
        let Self {
            policy,
            setting,
            effect,
            ..
        } = self;
        write!(f, "the {kind} {policy:?} sets {setting}: {effect}")
    }
}

#[cfg(test)]
mod tests;
