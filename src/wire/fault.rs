//! What can be wrong with the bytes of a request.

use thiserror::Error;

/// Why a request's bytes are refused. The text goes to the client as the problem's detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// Not `METHOD target HTTP/1.x`.
    #[error("the request line is not METHOD target HTTP/1.1")]
    RequestLine,
    /// The method is not a token or too long.
    #[error("the request method is not a token of at most 32 characters")]
    Method,
    /// The target is empty, holds what must be encoded, or is in a form not served.
    #[error("the request target is not a path or an absolute http URL in visible ASCII")]
    Target,
    /// Not HTTP/1.0 or HTTP/1.1.
    #[error("the protocol version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    /// CONNECT.
    #[error("CONNECT is not served here")]
    Connect,
    /// A line that does not end in CRLF.
    #[error("a line of the request does not end in CRLF")]
    LineEnd,
    /// A field name that is not a token directly before its colon; also a folded line.
    #[error("a header line does not begin with a field name directly followed by a colon")]
    HeaderName,
    /// A control character in a field value.
    #[error("a header value contains a control character")]
    HeaderValue,
    /// Missing, repeated or malformed.
    #[error("exactly one well-formed Host header is needed")]
    Host,
    /// An absolute-form target whose authority is not the Host.
    #[error("the authority of the request target and the Host header disagree")]
    Authority,
    /// Repeated, a list, or not a number.
    #[error("Content-Length must be given once, as a plain number")]
    ContentLength,
    /// Anything but one final `chunked`.
    #[error("the only Transfer-Encoding accepted is a single chunked, and only in HTTP/1.1")]
    TransferEncoding,
    /// Both framings at once.
    #[error("Content-Length and Transfer-Encoding must not be sent together")]
    LengthAndChunked,
    /// More fields than `server.max_headers`.
    #[error("the request has more header fields than server.max_headers allows")]
    TooManyHeaders,
    /// More bytes than `server.max_head`.
    #[error("the request head is larger than server.max_head allows")]
    HeadTooLarge,
    /// A target longer than `server.max_uri`.
    #[error("the request target is longer than server.max_uri allows")]
    TargetTooLong,
    /// Not whole within `server.header_timeout`.
    #[error("the request's head did not arrive within server.header_timeout")]
    HeadTimeout,
    /// Broken chunk framing.
    #[error("the chunked framing of the body is malformed")]
    Chunk,
    /// Chunk extensions beyond their bound.
    #[error("a chunk extension is longer than 256 bytes")]
    ChunkExtension,
    /// Trailers beyond their bound, or with framing fields in them.
    #[error("the trailer section is malformed or too large")]
    Trailer,
}
