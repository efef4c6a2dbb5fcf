//! What only one of the two processes can have open, such as a file with a lock.

/// How that is let go and taken back.
pub struct Estate {
    /// Closes it. It is closed when this returns, and may block for as long as that takes.
    pub let_go: Box<dyn Fn() + Send + Sync>,
    /// Opens it again, as soon as a successor that failed has closed it.
    pub take_back: Box<dyn Fn() + Send + Sync>,
}

impl Estate {
    /// Nothing.
    pub fn none() -> Estate {
        Estate { let_go: Box::new(|| ()), take_back: Box::new(|| ()) }
    }

    /// Begins an attempt to pass it on.
    pub(super) fn loan(&self) -> Loan<'_> {
        Loan { estate: self, is_out: false }
    }
}

/// An estate while it may be with a successor. Comes back when this is dropped, unless it was
/// left to that one.
pub(super) struct Loan<'a> {
    estate: &'a Estate,
    is_out: bool,
}

impl Loan<'_> {
    /// Lets the estate go.
    pub(super) fn give(&mut self) {
        self.is_out = true;
        (self.estate.let_go)();
    }

    /// Leaves it to the successor.
    pub(super) fn leave(mut self) {
        self.is_out = false;
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if self.is_out {
            (self.estate.take_back)();
        }
    }
}
