//! What systemd is told: one datagram for each change, where it asked to be told
//! (`Type=notify`), and nothing otherwise. Other supervisors speak the same protocol.

use sd_notify::NotifyState;

/// The service is up, or done with a reload.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload has begun; [`ready`] ends it.
pub(super) fn reloading() {
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
