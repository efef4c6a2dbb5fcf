//! How the sample misbehaves towards one request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Json;
use axum::body::{self, Body, HttpBody};
use axum::extract::{ConnectInfo, Request};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use serde::{Serialize, Serializer};
use serde_json::json;
use tokio::time::{Sleep, sleep};

use super::connection::{Connection, Ending, Point};
use super::{MAX_DATA_BYTES, MAX_DELAY_MS, problem};

/// In how many drops a body comes.
const DROPS: usize = 16;

/// What one request meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Misbehaviour {
    /// How long before anything happens.
    pub(super) delay: Duration,
    /// How long before each drop of the body; 0: it comes at once.
    pub(super) drip: Duration,
    /// The answer in place of what the service would say.
    pub(super) status: Option<StatusCode>,
    /// Seconds.
    pub(super) retry_after: Option<u64>,
    /// What becomes of the answer.
    pub(super) fault: Fault,
}

/// What a failure is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    /// An answer that says so, or none at all.
    #[default]
    Status,
    /// An answer that ends like this at this point.
    Broken(Point, Ending),
}

impl Fault {
    pub(super) const RESET: Self = Self::Broken(Point::Start, Ending::Reset);

    const NAMED: [(&str, Self); 10] = [
        ("status", Self::Status),
        ("stall", Self::Broken(Point::Start, Ending::Stall)),
        ("stall-head", Self::Broken(Point::Head, Ending::Stall)),
        ("stall-body", Self::Broken(Point::Body, Ending::Stall)),
        ("close", Self::Broken(Point::Start, Ending::Close)),
        ("close-head", Self::Broken(Point::Head, Ending::Close)),
        ("close-body", Self::Broken(Point::Body, Ending::Close)),
        ("reset", Self::RESET),
        ("reset-head", Self::Broken(Point::Head, Ending::Reset)),
        ("reset-body", Self::Broken(Point::Body, Ending::Reset)),
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|&(_, fault)| fault)
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = Self::NAMED.iter().find(|(_, fault)| fault == self);
        named.map(|(name, _)| name).serialize(serializer)
    }
}

impl Misbehaviour {
    /// Answers the request so.
    pub(super) async fn apply(self, request: Request, next: Next) -> Response {
        if !self.delay.is_zero() {
            sleep(self.delay).await;
        }
        let is_head = request.method() == Method::HEAD;
        let connection = request.extensions().get::<ConnectInfo<Connection>>().cloned();
        if self.fault == Fault::Broken(Point::Start, Ending::Stall) {
            // Not by the connection: while there is no answer yet, it still notices when the
            // other side goes away.
            sleep(Duration::from_millis(MAX_DELAY_MS)).await;
        }
        let mut response = match self.status {
            Some(status) => as_asked(status),
            None => next.run(request).await,
        };
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if !self.drip.is_zero() {
            response = dripping(response, self.drip).await;
        }
        if let Fault::Broken(point, ending) = self.fault {
            let Some(ConnectInfo(connection)) = connection else {
                return problem(StatusCode::NOT_IMPLEMENTED, "no connection to break");
            };
            // The answer to HEAD has a length and loses its body on the way out.
            let length = if is_head { 0 } else { response.body().size_hint().lower() };
            connection.break_answer(point, length / 2, ending);
        }
        response
    }
}

fn as_asked(status: StatusCode) -> Response {
    match status {
        // These three have no body, whatever is said about it.
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => {
            status.into_response()
        }
        _ => (status, Json(json!({"status": status.as_u16(), "detail": "answered as asked"})))
            .into_response(),
    }
}

async fn dripping(response: Response, every: Duration) -> Response {
    let (head, body) = response.into_parts();
    // All bodies here are made in memory; the bound is that of the largest and its envelope.
    match body::to_bytes(body, MAX_DATA_BYTES + 1024).await {
        Ok(bytes) => {
            let size = bytes.len().div_ceil(DROPS).max(1);
            let drip = Drip { left: bytes, size, every, pause: Box::pin(sleep(every)) };
            Response::from_parts(head, Body::new(drip))
        }
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "a body that is too long to drip"),
    }
}

/// A body of known length that comes in drops.
struct Drip {
    left: Bytes,
    size: usize,
    every: Duration,
    pause: Pin<Box<Sleep>>,
}

impl HttpBody for Drip {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        ready!(self.pause.as_mut().poll(cx));
        self.pause = Box::pin(sleep(self.every));
        let size = self.size.min(self.left.len());
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
