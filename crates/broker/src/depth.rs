//! The number of messages in queues.

use std::time::Duration;

use crate::{InspectError, Link, Topology};

impl Topology {
    /// Returns the number of ready messages in each of the topology's queues; `None` for a queue that is
    /// missing or that the user may not access. Changes nothing.
    ///
    /// # Errors
    /// Returns an error if no channel can be opened.
    pub async fn depths(&self, link: &Link) -> Result<Vec<(String, Option<u32>)>, InspectError> {
        let mut channel = link.channel().await?;
        let mut depths = Vec::new();
        for queue in self.queues() {
            let ready = queue.declare(&channel, true).await.ok().map(|(ready, _)| ready);
            if ready.is_none() {
                // The broker has closed the channel.
                channel = link.channel().await?;
            }
            depths.push((queue.name, ready));
        }
        let _ = channel.close(200, "OK".into()).await;
        Ok(depths)
    }

    /// Returns the number of ready messages in the delay queue of this delay, whether or not it is one of the
    /// topology's; `None` if there is no such queue, or if the user may not access it.
    ///
    /// # Errors
    /// Returns an error if no channel can be opened.
    pub async fn delayed(&self, link: &Link, delay: Duration) -> Result<Option<u32>, InspectError> {
        let channel = link.channel().await?;
        let Ok((ready, _)) = self.delay_queue(delay).declare(&channel, true).await else {
            return Ok(None);
        };
        let _ = channel.close(200, "OK".into()).await;
        Ok(Some(ready))
    }
}
