//! What the registry's refusals look like, and the pages it is read in.

use super::problem::{Problem, described};
use crate::registry::RegistryError;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use http::StatusCode;
use std::collections::BTreeMap;
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response};

/// Entries of a page, unless the request says how many, and the most it can ask for.
const DEFAULT_PAGE: usize = 100;
pub(super) const MAX_PAGE: usize = 1_000;

/// Parameters of a query, as they came.
pub(super) type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Which part of a list is wanted.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) limit: usize,
    pub(super) after: Option<String>,
    pub(super) prefix: Option<String>,
}

impl Page {
    /// Reads those of `limit`, `after` and `prefix` that are known here, each at most once.
    pub(super) fn read(parameters: Vec<(String, String)>, known: &[&str]) -> Result<Page, Problem> {
        let mut page = Page { limit: DEFAULT_PAGE, ..Page::default() };
        let mut seen = Vec::new();
        for (name, value) in parameters {
            if !known.contains(&&*name) {
                let known = known.join(", ");
                let detail = format!("unknown parameter {name:?}; known here: {known}");
                return Err(Problem::field(name, detail));
            }
            if seen.contains(&name) {
                return Err(Problem::field(&*name, format!("{name} is there twice")));
            }
            match &*name {
                "limit" => page.limit = limit(&value)?,
                "after" => page.after = Some(value),
                _ => page.prefix = Some(value),
            }
            seen.push(name);
        }
        Ok(page)
    }
}

fn limit(text: &str) -> Result<usize, Problem> {
    let limit = text.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
    limit.ok_or_else(|| {
        Problem::field("limit", format!("limit must be a whole number from 1 to {MAX_PAGE}"))
    })
}

/// The parameters of a request, whatever they are.
pub(super) fn parameters(query: Parameters) -> Result<Vec<(String, String)>, Problem> {
    query.map(|Query(parameters)| parameters).map_err(|_| Problem::bad("the query cannot be read"))
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Problem {
        use RegistryError as E;
        let detail = error.to_string();
        match error {
            E::TooManyClients(_)
            | E::TooManyKeys(_)
            | E::TooManyKeysOfClient(_)
            | E::TooManyBlocks(_) => Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail),
            E::NoSuchKey => Problem::missing("key", detail),
            E::NoSuchBlock => Problem::missing("value", detail),
            E::Busy | E::HandedOver | E::Taken | E::Failing(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_retry_after(1)
            }
        }
    }
}

/// The answer while the registry's file cannot be used, for the OpenAPI document.
pub(super) struct Unavailable;

impl IntoResponses for Unavailable {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let unavailable = described(
            "The registry's file is with a successor of this process, or fails; Retry-After says \
             when to ask again. Nothing changed.",
        );
        [("503".to_owned(), unavailable.into())].into()
    }
}

/// The answers when there is no room, or the file cannot be used, for the OpenAPI document.
pub(super) struct Full;

impl IntoResponses for Full {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let full = described("There is no room for another one. Nothing changed.");
        let mut responses = Unavailable::responses();
        responses.insert("507".to_owned(), full.into());
        responses
    }
}
