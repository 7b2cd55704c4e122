//! The mark of an installation on the broker: which database the exchanges and queues of a prefix belong to.
//!
//! Two installations that share a prefix take each other's messages: a worker that does not know an endpoint
//! sets its deliveries aside, and each recorder writes half of the journal. So every role compares the id of
//! its database with the mark before it consumes.
//!
//! The mark is a durable exchange that nothing is published to. Its alternate exchange, which does not exist,
//! is named by the id: that is the one argument of an exchange that RabbitMQ compares when the exchange is
//! declared again, and whose present value it names when they differ.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use crate::{
    InspectError, Link, Topology,
    reply::{self, reply_code},
};

/// Whose a prefix is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This installation's.
    Ours,
    /// That of another one, with its id as far as it is known.
    Theirs(String),
    /// No installation's yet.
    Missing,
}

impl Topology {
    fn mark(&self) -> String {
        self.named("installation")
    }

    /// Says that the prefix belongs to the installation of this id, unless it is another's.
    ///
    /// # Errors
    /// When there is no channel, or the broker refuses for another reason.
    pub async fn claim(&self, link: &Link, id: &str) -> Result<Mark, InspectError> {
        self.declare_mark(&link.channel().await?, id, false).await
    }

    /// Whose the prefix is; changes nothing.
    ///
    /// # Errors
    /// When there is no channel, or the broker refuses for another reason.
    pub async fn find_mark(&self, link: &Link, id: &str) -> Result<Mark, InspectError> {
        // Only an active declaration compares, and it would make what is missing.
        match self.declare_mark(&link.channel().await?, id, true).await? {
            Mark::Missing => Ok(Mark::Missing),
            _ => self.claim(link, id).await,
        }
    }

    /// Has the prefix belong to the installation of this id from now on, whosever it was.
    ///
    /// # Errors
    /// When there is no channel, or the broker refuses.
    pub async fn adopt(&self, link: &Link, id: &str) -> Result<(), InspectError> {
        let channel = link.channel().await?;
        let name = self.mark();
        channel
            .exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default())
            .await
            .map_err(InspectError::Channel)?;
        self.declare_mark(&channel, id, false).await.map(|_| ())
    }

    async fn declare_mark(&self, channel: &Channel, id: &str, passive: bool) -> Result<Mark, InspectError> {
        let name = self.mark();
        let mut arguments = FieldTable::default();
        arguments.insert("alternate-exchange".into(), AMQPValue::LongString(id.into()));
        let options = ExchangeDeclareOptions {
            durable: true,
            internal: true,
            passive,
            ..ExchangeDeclareOptions::default()
        };
        let declared =
            channel.exchange_declare(name.as_str().into(), ExchangeKind::Fanout, options, arguments);
        let Err(error) = declared.await else {
            return Ok(Mark::Ours);
        };
        match reply_code(&error) {
            Some(reply::NOT_FOUND) => Ok(Mark::Missing),
            Some(reply::PRECONDITION_FAILED) => Ok(Mark::Theirs(present_id(&error.to_string()))),
            _ => Err(InspectError::Channel(error)),
        }
    }
}

/// The id in RabbitMQ's words: `... received 'ins_a' but current is 'ins_b'`. They have 255 bytes at most, so
/// it can be missing where names are long.
fn present_id(error: &str) -> String {
    let id = || {
        let (_, present) = error.rsplit_once("current is '")?;
        Some(present.split_once('\'')?.0)
    };
    id().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_id_is_in_the_brokers_words() {
        let words = "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'm.installation' in vhost '/': \
                     received 'ins_a' but current is 'ins_b'";
        assert_eq!(present_id(words), "ins_b");
        let cut = &words[..words.len() - 1];
        for other in [
            cut,
            "received the value 'x' of type 'longstr' but current is none",
        ] {
            assert_eq!(present_id(other), "unknown");
        }
    }
}
