//! Resident memory: idle, and per kept connection that does nothing.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::contenders::{Running, Target};
use crate::http;
use crate::process::resident_bytes;

/// A size counts as settled when it moves less than this between two looks.
const STILL_BYTES: u64 = 64 * 1024;
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// After this long the last size is taken as it is.
const SETTLE_DEADLINE: Duration = Duration::from_secs(6);

/// What one contender keeps in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) name: &'static str,
    /// Bytes after start and one request.
    pub(crate) idle_bytes: u64,
    /// Bytes each kept connection added.
    pub(crate) per_connection_bytes: u64,
}

/// Opens `connections`, asks once on each, and looks at what stays resident.
pub(crate) fn measure(running: &Running, connections: usize) -> anyhow::Result<Memory> {
    let target = &running.forward;
    let idle_bytes = settled(target)?;
    let mut kept: Vec<TcpStream> = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = http::connect(target.address)?;
        let answer = http::ask(&mut stream, target.path, target.client)?;
        ensure!(answer.status == 200, "{} answers {}", target.name, answer.status);
        kept.push(stream);
    }
    let full_bytes = settled(target)?;
    // The figure is about open connections, so the last must still be one.
    if let Some(stream) = kept.first_mut() {
        http::ask(stream, target.path, target.client)?;
    }
    let grown = full_bytes.saturating_sub(idle_bytes);
    let per_connection_bytes = grown / connections.max(1) as u64;
    Ok(Memory { name: target.name, idle_bytes, per_connection_bytes })
}

/// The resident size once it has stopped moving.
pub(crate) fn settled(target: &Target) -> anyhow::Result<u64> {
    let deadline = Instant::now() + SETTLE_DEADLINE;
    let mut last = resident_bytes(target.id)?;
    loop {
        thread::sleep(LOOK_INTERVAL);
        let size = resident_bytes(target.id)?;
        if size.abs_diff(last) < STILL_BYTES || Instant::now() > deadline {
            return Ok(size);
        }
        last = size;
    }
}
