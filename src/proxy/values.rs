//! Header values that are made for every request.
//!
//! They are cut from blocks of memory, so that making one allocates nothing for most requests,
//! and copying one never does. A block stays until the last of its values is gone: a request that
//! lasts for hours keeps a kilobyte.

use bytes::{BufMut, BytesMut};
use http::HeaderValue;
use std::cell::RefCell;

/// Bytes of a block: values of about ten requests.
const BLOCK: usize = 1_024;

thread_local! {
    /// What is left of the thread's block.
    static REST: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// The value that these pieces make together; empty where no header may have it.
pub(super) fn joined(pieces: &[&[u8]]) -> HeaderValue {
    let length = pieces.iter().map(|piece| piece.len()).sum();
    let value = REST.with_borrow_mut(|rest| {
        if rest.capacity() < length {
            // Takes the old block again, where nobody has a value of it any more.
            rest.reserve(length.max(BLOCK));
        }
        pieces.iter().for_each(|piece| rest.put_slice(piece));
        rest.split().freeze()
    });
    HeaderValue::from_maybe_shared(value).unwrap_or(HeaderValue::from_static(""))
}

/// The value of a number.
pub(super) fn number(number: u64) -> HeaderValue {
    joined(&[itoa::Buffer::new().format(number).as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_as_it_was_made_whatever_is_made_after_it() {
        let long = [b'x'; 3 * BLOCK];
        let values: Vec<HeaderValue> = (0..1_000).map(number).collect();
        assert_eq!(joined(&[&long, b"y"]).len(), long.len() + 1);
        for (at, value) in values.iter().enumerate() {
            assert_eq!(value.to_str().unwrap(), at.to_string());
        }
    }

    #[test]
    fn a_block_serves_again_when_its_values_are_gone() {
        let places: Vec<*const u8> =
            (0..10 * BLOCK).map(|_| number(7).as_bytes().as_ptr()).collect();
        let (first, last) = (places.iter().min().unwrap(), places.iter().max().unwrap());
        assert!((last.addr() - first.addr()) < BLOCK, "{} bytes", last.addr() - first.addr());
    }

    #[test]
    fn what_no_header_may_have_is_left_out() {
        assert_eq!(joined(&[b"a", b"\r\nb"]), "");
        assert_eq!(joined(&[b"\"tier\"", b";r=", b"7"]), "\"tier\";r=7");
    }
}
