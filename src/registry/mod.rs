//! Who the clients are: what the configuration registers, and what the admin API changed
//! since; and who is blocked.
//!
//! Requests read maps in `memory` and never wait. Changes stand over the configuration and
//! name tiers by name, so that they outlive the configuration they were made under. One thread
//! makes them (`keeper`), on disk first where there is a `state_dir`, so what was acknowledged
//! is there after any end of the process.

mod blocks;
mod clients;
mod condition;
mod entry;
mod file;
mod fingerprint;
pub mod identity;
mod keeper;
mod known;
mod ledger;
mod memory;
mod merge;
mod outgoing;
mod record;
mod shares;
mod sharing;

pub use blocks::{Target, TargetError};
pub use condition::{Bounds, Condition, RegistryError};
pub use entry::{Entry, EntryError, Lasting, read_version, version_text};
pub use file::Block;
pub use known::KnownClients;
pub use merge::{Page, Pushed};
pub use outgoing::Progress;
pub use record::{ApiKey, Change, KeyId, Record};
pub use shares::{KEEP_REMOVED, MAX_REMOVED, Mark};
pub use sharing::UnsharedChanges;

use crate::clock;
use crate::policy::rate::TokenBucket;
use crate::policy::tier::{TierId, Tiers};
use condition::Status;
use file::Reading;
use keeper::{Keeper, Letter};
use memory::Memory;
use sha2::{Digest, Sha256};
use sharing::Sharing;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// The most clients the admin API may register; about 60 bytes of memory each, 100 more with a
/// limit of its own, and 80 more where there is no folder.
pub const MAX_CHANGED_CLIENTS: usize = 1_000_000;
/// The most API keys made at run time; about 200 bytes of memory each.
pub const MAX_KEYS: usize = 1_000_000;
/// The most of them that one client may have, as in the file.
pub const MAX_KEYS_OF_CLIENT: usize = 16;
/// The most blocks; about 100 bytes of memory each.
pub const MAX_BLOCKS: usize = 100_000;
/// The longest client id in bytes.
pub const MAX_CLIENT_ID: usize = 256;
/// Changes and questions that may wait for the thread that has the file.
const MAX_LETTERS: usize = 1_024;

/// Whether `id` can name a client: 1 to 256 bytes of visible ASCII.
pub fn is_client_id(id: &[u8]) -> bool {
    (1..=MAX_CLIENT_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// How a client stands: what its requests are charged against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its tier.
    pub tier: TierId,
    /// Its own limit, where it has one.
    pub own_limit: Option<TokenBucket>,
    /// Whether configuration or registry name it.
    pub is_registered: bool,
}

impl Standing {
    /// A client nobody registered.
    pub fn stranger(tiers: &Tiers) -> Standing {
        Standing { tier: tiers.default_tier(), own_limit: None, is_registered: false }
    }

    /// The bucket its tier policy is: its own limit or its tier's.
    pub fn bucket<'a>(&'a self, tiers: &'a Tiers) -> &'a TokenBucket {
        self.own_limit.as_ref().unwrap_or(&tiers.get(self.tier).bucket)
    }
}

/// What was set at run time.
pub struct Registry {
    memory: Arc<Memory>,
    status: Arc<Status>,
    sharing: Arc<Sharing>,
    letters: SyncSender<Letter>,
    thread: Option<JoinHandle<()>>,
}

impl Default for Registry {
    /// One that ends with the process.
    fn default() -> Registry {
        Registry::bounded(None, Bounds::default()).unwrap_or_else(|_| Registry::without_thread())
    }
}

impl Drop for Registry {
    /// The file is closed when this returns.
    fn drop(&mut self) {
        let _ = self.letters.send(Letter::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What requests ask. Nothing here waits.
impl Registry {
    /// How the client with this id stands.
    pub fn standing(&self, id: &str, known: &KnownClients, tiers: &Tiers) -> Standing {
        let configured = known.find(id);
        let of_file = Standing {
            tier: configured.flatten().unwrap_or_else(|| tiers.default_tier()),
            own_limit: None,
            is_registered: configured.is_some(),
        };
        let Some(held) = self.memory.client(id) else { return of_file };
        let tier = held.tier.and_then(|name| tiers.named(name)).unwrap_or(of_file.tier);
        Standing { tier, own_limit: held.own_limit, is_registered: true }
    }

    /// The client an API key belongs to, whether the file or the admin API made it.
    pub fn client_of_key(&self, key: &[u8], known: &KnownClients) -> Option<Arc<str>> {
        let presented: [u8; 32] = Sha256::digest(key).into();
        let configured = known.client_of_hash(&presented).cloned();
        configured.or_else(|| self.memory.client_of_key(&presented, clock::unix_ms))
    }

    /// Whether an address, in canonical form, is blocked, or a network around it.
    pub fn blocks_ip(&self, ip: IpAddr) -> bool {
        self.memory.blocks_ip(ip, clock::unix_ms)
    }

    /// Whether a client is blocked.
    pub fn blocks_client(&self, id: &str) -> bool {
        self.memory.blocks_client(id, clock::unix_ms)
    }

    /// When something was last set for a client, in nanoseconds of the clock; 0: never.
    #[inline]
    pub fn changed_ns(&self) -> u64 {
        self.memory.changed_ns()
    }

    /// How many clients, keys and blocks there are.
    pub fn counts(&self) -> [usize; 3] {
        self.memory.counts()
    }

    /// Where it is and how it is.
    pub fn condition(&self) -> Condition {
        self.status.get()
    }
}

/// What administrators ask.
impl Registry {
    /// The registry in `folder`, made where it is missing; without a folder, one that ends with
    /// the process. Reads all of it: a second or two for a million clients.
    ///
    /// # Errors
    /// When another process has it open.
    pub fn open(folder: Option<&Path>) -> Result<Registry, RegistryError> {
        Registry::bounded(folder, Bounds::default())
    }

    /// The same, to be shared with other gateways, among which `writer` is this process and no
    /// other. What was set before is kept, and shared as what is older than all else.
    ///
    /// # Errors
    /// As for [`open`](Registry::open).
    pub fn open_shared(
        folder: Option<&Path>,
        bounds: Bounds,
        writer: u64,
    ) -> Result<Registry, RegistryError> {
        Registry::made(folder, bounds, Some(writer))
    }

    /// The same, with bounds other than the usual ones.
    ///
    /// # Errors
    /// As for [`open`](Registry::open).
    pub fn bounded(folder: Option<&Path>, bounds: Bounds) -> Result<Registry, RegistryError> {
        Registry::made(folder, bounds, None)
    }

    fn made(
        folder: Option<&Path>,
        bounds: Bounds,
        writer: Option<u64>,
    ) -> Result<Registry, RegistryError> {
        let (mut registry, letters) = Registry::unattended();
        let (memory, status) = (registry.memory.clone(), registry.status.clone());
        let sharing = registry.sharing.clone();
        let keeper = Keeper::start(folder, memory, status, sharing, writer, bounds)?;
        let run = move || keeper.run(&letters);
        match std::thread::Builder::new().name("registry".into()).spawn(run) {
            Ok(thread) => registry.thread = Some(thread),
            Err(error) => return Err(RegistryError::Failing(error.to_string())),
        }
        Ok(registry)
    }

    fn unattended() -> (Registry, Receiver<Letter>) {
        let (letters, inbox) = sync_channel(MAX_LETTERS);
        let (memory, status) = (Arc::new(Memory::new()), Arc::new(Status::default()));
        let sharing = Arc::new(Sharing::default());
        (Registry { memory, status, sharing, letters, thread: None }, inbox)
    }

    /// One that refuses every change: there is no thread to make them.
    fn without_thread() -> Registry {
        let (registry, _) = Registry::unattended();
        registry.status.set(Condition::Failing);
        registry
    }

    /// Makes a change. It is on disk, and every request from now on meets it, when this returns.
    /// A change that is no longer waited for is made all the same. Where the registry is shared
    /// and other gateways can be told at once, this waits until they are, for 250 ms at the most.
    ///
    /// # Errors
    /// Why it was not made.
    pub async fn change(&self, change: Change) -> Result<(), RegistryError> {
        let (answer, made) = oneshot::channel();
        self.post(Letter::Change(change, answer))?;
        let counter = made.await.unwrap_or_else(|_| Err(stopped()))?;
        self.sharing.shared(counter).await;
        Ok(())
    }

    /// Clients that were registered at run time, in the order of their ids' bytes: those that
    /// begin with `prefix` and come behind `after`, at most `most`.
    ///
    /// # Errors
    /// Why that cannot be read now.
    pub async fn clients(
        &self,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<(Box<str>, Record)>, RegistryError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.read(move |reading| reading.clients(&prefix, after.as_deref(), most)).await
    }

    /// The keys a client was given at run time, in the order of their ids.
    ///
    /// # Errors
    /// Why they cannot be read now.
    pub async fn keys_of(&self, client: &str) -> Result<Vec<ApiKey>, RegistryError> {
        let client = client.to_owned();
        self.read(move |reading| reading.keys_of(&client)).await
    }

    /// Blocks that have not ended, in the order of kinds and values: at most `most` of those
    /// behind `after`, a kind and a value with a slash between.
    ///
    /// # Errors
    /// Why they cannot be read now.
    pub async fn blocks(
        &self,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Block>, RegistryError> {
        let after = after.map(str::to_owned);
        self.read(move |reading| reading.blocks(after.as_deref(), most, clock::unix_ms())).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reading) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let (answer, found) = oneshot::channel();
        self.post(Letter::Read(Box::new(move |reading| {
            let found = reading.and_then(|reading| {
                read(&reading).map_err(|error| RegistryError::Failing(error.to_string()))
            });
            let _ = answer.send(found);
        })))?;
        found.await.unwrap_or_else(|_| Err(stopped()))
    }

    fn post(&self, letter: Letter) -> Result<(), RegistryError> {
        self.letters.try_send(letter).map_err(|error| match error {
            TrySendError::Full(_) => RegistryError::Busy,
            TrySendError::Disconnected(_) => stopped(),
        })
    }

    /// Closes the file, for a successor to open it. What was asked for before is done first;
    /// from then on changes are refused, and requests go on as before. Blocks.
    pub fn let_go(&self) {
        let (answer, done) = oneshot::channel();
        if self.letters.send(Letter::LetGo(answer)).is_ok() {
            let _ = done.blocking_recv();
        }
    }

    /// Opens the file again because there is no successor, as soon as that one has closed it,
    /// and reads what it did. Blocks for a moment at the most.
    pub fn take_back(&self) {
        let _ = self.letters.send(Letter::TakeBack);
    }
}

/// What is said where the thread is gone, which only a fault of its own can bring about.
fn stopped() -> RegistryError {
    RegistryError::Failing("its thread has ended".into())
}

#[cfg(test)]
mod tests;
