//! Messages between gateways, over a connection of its own.
//!
//! A message is a hint: what is published while somebody is not connected never reaches them.

use super::link::Link;
use redis::{Msg, PushInfo, PushKind, RedisResult};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{sleep, timeout};

/// Messages that wait for a receiver. Of more than that the latest are dropped.
pub const MESSAGES: usize = 1_024;
/// The longest message that is passed on, in bytes.
const MAX_MESSAGE: usize = 64 << 10;
/// How often the connection is looked at: nothing comes from one whose other end is gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long it may take to answer then.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a channel's messages come on.
pub type Messages = mpsc::Receiver<Vec<u8>>;

/// Who wants which messages.
#[derive(Default)]
pub(super) struct Channels {
    subscribers: Mutex<HashMap<String, Vec<mpsc::Sender<Vec<u8>>>>>,
    /// There are channels that nobody listened to before.
    more: Notify,
}

impl Channels {
    pub(super) fn subscribe(&self, channel: String) -> Messages {
        let (sender, receiver) = mpsc::channel(MESSAGES);
        self.subscribers().entry(channel).or_default().push(sender);
        self.more.notify_one();
        receiver
    }

    fn subscribers(&self) -> MutexGuard<'_, HashMap<String, Vec<mpsc::Sender<Vec<u8>>>>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channels that somebody still listens to.
    fn wanted(&self) -> Vec<String> {
        let mut subscribers = self.subscribers();
        subscribers.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        subscribers.keys().cloned().collect()
    }

    fn pass_on(&self, channel: &str, message: &[u8]) {
        if message.len() > MAX_MESSAGE {
            return;
        }
        let mut subscribers = self.subscribers();
        if let Some(senders) = subscribers.get_mut(channel) {
            senders.retain(|sender| {
                let sent = sender.try_send(message.to_vec());
                !matches!(sent, Err(TrySendError::Closed(_)))
            });
        }
    }
}

impl Link {
    /// Passes messages on, for as long as there is a way to Redis and somebody who listens.
    /// Never ends.
    pub(super) async fn listen(&self) {
        let mut changes = self.changes();
        loop {
            if self.shared.channels.wanted().is_empty() {
                self.shared.channels.more.notified().await;
                continue;
            }
            // The sender lives as long as the link.
            let _ = changes.wait_for(|is_up| *is_up).await;
            changes.mark_unchanged();
            tokio::select! {
                // Whatever it was, it did not last; connecting has a wait of its own.
                _ = self.listen_once() => sleep(LOOK_EVERY / 2).await,
                // After a failover somebody else may be the one to listen to.
                _ = changes.changed() => {}
            }
        }
    }

    /// Until the connection breaks, or nobody listens any longer.
    async fn listen_once(&self) -> RedisResult<()> {
        let (shared, broken) = (self.shared.clone(), Arc::new(Notify::new()));
        let breaks = broken.clone();
        let take = move |push: PushInfo| match &push.kind {
            PushKind::Disconnection => breaks.notify_one(),
            _ => {
                if let Some(message) = Msg::from_push_info(push) {
                    let (channel, payload) =
                        (message.get_channel_name(), message.get_payload_bytes());
                    shared.channels.pass_on(channel, payload);
                }
            }
        };
        let mut connection = self.shared.connector.listen(take).await?;
        loop {
            let wanted = self.shared.channels.wanted();
            if wanted.is_empty() {
                return Ok(());
            }
            // Over and over, which also tells that the other end is still there.
            match timeout(PATIENCE, connection.subscribe(&wanted)).await {
                Ok(result) => result?,
                Err(elapsed) => return Err(std::io::Error::from(elapsed).into()),
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = self.shared.channels.more.notified() => {}
                () = broken.notified() => return Ok(()),
            }
        }
    }
}
