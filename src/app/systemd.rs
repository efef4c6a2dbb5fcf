//! What systemd is told: one datagram for each change, where it asked to be told
//! (`Type=notify`), and nothing otherwise. Other supervisors speak the same protocol.

use crate::reload::{Phase, Progress};
use sd_notify::NotifyState;
use tokio::sync::watch;

/// The service is up, or done with a reload.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells of every reload from now on, in pairs of RELOADING and READY; `addresses` are what is
/// served.
pub(super) async fn tell_reloads(mut progress: watch::Receiver<Progress>, addresses: String) {
    let mut begun = progress.borrow().begun;
    while progress.changed().await.is_ok() {
        let now = progress.borrow_and_update().clone();
        if now.begun != begun {
            begun = now.begun;
            reloading();
        }
        if let Some(outcome) = outcome(&now.phase) {
            ready(&format!("serving on {addresses}, {outcome}"));
        }
    }
}

fn outcome(phase: &Phase) -> Option<String> {
    match phase {
        Phase::Started | Phase::Reloading => None,
        Phase::Taken { generation, .. } => Some(format!("generation {generation}")),
        Phase::Rejected { generation, why } => {
            Some(format!("generation {generation}; the last reload was rejected: {why}"))
        }
        Phase::RolledBack { generation, from, why } => {
            Some(format!("generation {generation}; generation {from} was taken back: {why}"))
        }
    }
}

/// A reload has begun; [`ready`] ends it.
fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => log::debug!("the supervisor is not told of the reload: {error}"),
    }
}

/// The service drains.
pub(super) fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Another process of the service is the main one from now on.
pub(super) fn main_process(process: i32) {
    if let Ok(process) = u32::try_from(process) {
        notify(&[NotifyState::MainPid(process)]);
    }
}

/// The data path answers.
pub(super) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("the supervisor cannot be told: {error}");
    }
}
