//! The mark of an installation on the broker. It records which database the exchanges and queues of a prefix
//! belong to.
//!
//! Two installations that share a prefix take each other's messages: a worker that does not know an endpoint
//! rejects its deliveries, and each recorder writes half of the journal. Therefore every role compares the id
//! of its database with the mark before it consumes.
//!
//! The mark is a durable exchange that nothing is published to. The id is the name of its alternate exchange,
//! which does not exist. The alternate exchange is the one argument of an exchange that RabbitMQ compares
//! when the exchange is declared again, and RabbitMQ's error contains the present value if the values differ.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use crate::{
    InspectError, Link, Topology,
    reply::{self, reply_code},
};

/// The installation that a prefix belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This installation.
    Ours,
    /// Another installation, with its id, or `unknown`.
    Theirs(String),
    /// No installation yet.
    Missing,
}

impl Topology {
    fn mark(&self) -> String {
        self.named("installation")
    }

    /// Marks the prefix as belonging to the installation with this id, unless it belongs to another one.
    ///
    /// # Errors
    /// Returns an error if no channel can be opened, or if the broker refuses for another reason.
    pub async fn claim(&self, link: &Link, id: &str) -> Result<Mark, InspectError> {
        self.declare_mark(&link.channel().await?, id, false).await
    }

    /// Returns which installation the prefix belongs to; changes nothing.
    ///
    /// # Errors
    /// Returns an error if no channel can be opened, or if the broker refuses for another reason.
    pub async fn find_mark(&self, link: &Link, id: &str) -> Result<Mark, InspectError> {
        // Only an active declaration compares the id, but it would create a missing mark.
        match self.declare_mark(&link.channel().await?, id, true).await? {
            Mark::Missing => Ok(Mark::Missing),
            _ => self.claim(link, id).await,
        }
    }

    /// Marks the prefix as belonging to the installation with this id from now on, whichever one it belonged
    /// to before.
    ///
    /// # Errors
    /// Returns an error if no channel can be opened, or if the broker refuses.
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

/// Returns the id in RabbitMQ's error text: `... received 'ins_a' but current is 'ins_b'`. The text has at
/// most 255 bytes, so the id can be missing if names are long.
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
