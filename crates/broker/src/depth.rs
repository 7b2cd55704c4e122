//! How many messages wait in queues.

use std::time::Duration;

use crate::{InspectError, Link, Topology};

impl Topology {
    /// How many messages are ready in each of the topology's queues; `None` for one that cannot be asked,
    /// because it is missing or this user may not. Changes nothing.
    ///
    /// # Errors
    /// When there is no channel.
    pub async fn depths(&self, link: &Link) -> Result<Vec<(String, Option<u32>)>, InspectError> {
        let mut channel = link.channel().await?;
        let mut depths = Vec::new();
        for queue in self.queues() {
            let ready = queue.declare(&channel, true).await.ok().map(|(ready, _)| ready);
            if ready.is_none() {
                // The broker has closed it.
                channel = link.channel().await?;
            }
            depths.push((queue.name, ready));
        }
        let _ = channel.close(200, "OK".into()).await;
        Ok(depths)
    }

    /// How many messages are ready in the delay queue of this delay, whether or not it is one of the
    /// topology's; `None` when there is no such queue, or this user may not ask.
    ///
    /// # Errors
    /// When there is no channel.
    pub async fn delayed(&self, link: &Link, delay: Duration) -> Result<Option<u32>, InspectError> {
        let channel = link.channel().await?;
        let Ok((ready, _)) = self.delay_queue(delay).declare(&channel, true).await else {
            return Ok(None);
        };
        let _ = channel.close(200, "OK".into()).await;
        Ok(Some(ready))
    }
}
