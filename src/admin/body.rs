//! Request bodies: small JSON objects whose every field is known.

use super::problem::Problem;
use crate::strict_json::{self, Mistake};
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};
use std::time::Duration;

/// The largest body in bytes.
pub(super) const MAX_BODY: usize = 64 << 10;
/// How long a body is waited for.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The fields of a JSON object, none of them twice.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// The fields of an object within a body.
    ///
    /// # Errors
    /// When it is something else.
    pub(super) fn of(value: &Value) -> Result<Fields, Problem> {
        let object = value.as_object().ok_or_else(|| Problem::bad("this is not a JSON object"))?;
        Ok(Fields(object.clone()))
    }

    /// Whether a field has a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_null())
    }

    /// Refuses fields other than `known`.
    ///
    /// # Errors
    /// Names the first unknown field and the known ones.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(Problem::field(
                name.as_str(),
                format!("unknown field {name:?}; known here: {}", known.join(", ")),
            )),
        }
    }

    /// The value of a field that may be absent or null, as `read` understands it.
    ///
    /// # Errors
    /// Names the field and says what it should be when it is something else.
    pub(super) fn optional<'a, T>(
        &'a self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.required(name, expected, read).map(Some),
        }
    }

    /// The value of a field that must be there, as `read` understands it.
    ///
    /// # Errors
    /// Names the field and says what it should be when it is missing or something else.
    pub(super) fn required<'a, T>(
        &'a self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, Problem> {
        let Some(value) = self.0.get(name) else {
            return Err(Problem::field(name, format!("{name} is missing; it must be {expected}")));
        };
        read(value)
            .ok_or_else(|| Problem::field(name, format!("{name} is wrong; it must be {expected}")))
    }
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    /// The length is looked at before anything is read, so that a client which waits for
    /// `100 Continue` is spared sending what would be refused.
    async fn from_request(request: Request, state: &S) -> Result<Fields, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send JSON, with Content-Type: application/json",
            ));
        }
        if announced_length(request.headers()).is_some_and(|length| length > MAX_BODY as u64) {
            return Err(too_large());
        }
        // The router's body limit ends the reading.
        let bytes = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state))
            .await
            .map_err(|_| {
                Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")
            })?
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => too_large(),
                _ => Problem::bad("the body broke off"),
            })?;
        let value = strict_json::parse(&bytes).map_err(|Mistake { field, message }| {
            let detail = format!("the body is not what it should be: {message}");
            field.map_or_else(|| Problem::bad(&*detail), |field| Problem::field(field, &*detail))
        })?;
        match value {
            Value::Object(fields) => Ok(Fields(fields)),
            _ => Err(Problem::bad("the body is not what it should be: expected a JSON object")),
        }
    }
}

fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {MAX_BODY} bytes"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
