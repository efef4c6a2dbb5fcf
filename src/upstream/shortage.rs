//! Failures to reach a server that are not the server's.

use rustix::io::Errno;
use std::io;

/// Whether a connection was not made because this process or machine is out of file
/// descriptors, buffers or memory. No server is any worse for it.
pub fn is_ours(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| {
        matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_here_is_told_from_a_failure_there() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(is_ours(&errno.into()), "{errno}");
        }
        for errno in [Errno::CONNREFUSED, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::ADDRNOTAVAIL]
        {
            assert!(!is_ours(&errno.into()), "{errno}");
        }
        assert!(!is_ours(&io::ErrorKind::ConnectionRefused.into()));
    }
}
