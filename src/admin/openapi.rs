//! The OpenAPI document, and Swagger UI to read and try it with.
//!
//! Paths, parameters and bodies are written beside each handler. What the guard and the
//! router add to every operation is added here by the rules they themselves follow, so that
//! the document cannot forget it.

use super::body::MAX_BODY;
use super::guard;
use super::problem::{Problem, described};
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use std::sync::{Arc, LazyLock};
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};

/// What the document says besides the operations.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tollgate admin API",
        description = "Watches and steers a running gateway. When an admin token is set, all but \
                       /health, /ready and /metrics needs it. Errors are problem details \
                       (RFC 9457)."
    ),
    components(schemas(Problem)),
    tags(
        (name = "health", description = "For orchestrators and load balancers"),
        (name = "clients", description = "How clients stand, and changes that act at once"),
        (name = "limits", description = "Limits, tiers and the table of buckets"),
        (name = "upstreams", description = "Servers and circuits, and taking them out by hand"),
        (name = "metrics", description = "Prometheus, and summaries for people"),
        (name = "configuration", description = "What the gateway runs with"),
    ),
)]
pub(super) struct Frame;

/// The name of the bearer token's scheme.
const BEARER: &str = "bearer";

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let document = complete(super::api().into_openapi());
    serde_json::to_vec(&document).unwrap_or_default().into()
});

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "configuration",
    operation_id = "openapi", responses(
    (status = 200, description = "The OpenAPI document of the admin API", body = Object),
))]
pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

fn complete(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let components = document.components.get_or_insert_default();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The admin token, where one is set"))
        .build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    for (path, item) in &mut document.paths.paths {
        let PathItem { get, put, post, delete, .. } = item;
        if let Some(operation) = get {
            describe(operation, guard::is_public(path), false);
        }
        if let (Some(put), Some(post)) = (&*put, &mut *post)
            && put.operation_id == post.operation_id
        {
            // One handler for both; ids must differ all the same.
            post.operation_id = post.operation_id.take().map(|id| id + "_by_post");
        }
        for operation in [put, post, delete].into_iter().flatten() {
            describe(operation, guard::is_public(path), true);
        }
    }
    document
}

/// Adds what holds for an operation whatever its handler says.
fn describe(operation: &mut Operation, is_public: bool, is_write: bool) {
    let mut add = |status: &str, description: &str| {
        operation.responses.responses.insert(status.to_owned(), described(description).into());
    };
    if !is_public {
        add("401", "The admin token is missing or wrong");
    }
    if is_write {
        add("403", "Host is neither the listener's address nor loopback, or Origin is another");
    }
    if operation.request_body.is_some() {
        add("408", "The body did not arrive in time");
        add("413", &format!("The body is larger than {MAX_BODY} bytes"));
        add("415", "Content-Type is not application/json");
    }
    add("500", "The gateway has a bug");
    operation.security = Some(match is_public {
        true => vec![SecurityRequirement::default()],
        false => vec![SecurityRequirement::new(BEARER, [""; 0])],
    });
}

/// What Swagger UI may load: itself, and nothing from anywhere else. It writes style
/// attributes, hence the one exception.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; font-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static SWAGGER: LazyLock<Arc<utoipa_swagger_ui::Config<'static>>> = LazyLock::new(|| {
    // Without "none" it would send the document's address to a validator on the internet.
    Arc::new(utoipa_swagger_ui::Config::from("/openapi.json").validator_url("none"))
});

/// `/docs`: the page is at `/docs/`, and what it loads is named relative to that.
pub(super) async fn to_docs() -> Redirect {
    Redirect::permanent("/docs/")
}

/// `/docs/`
pub(super) async fn docs_page() -> Response {
    docs("index.html")
}

/// What the page loads.
pub(super) async fn docs_file(Path(file): Path<String>) -> Response {
    docs(&file)
}

fn docs(file: &str) -> Response {
    match utoipa_swagger_ui::serve(file, SWAGGER.clone()) {
        Ok(Some(file)) => {
            let headers = [
                (header::CONTENT_TYPE, &*file.content_type),
                (header::CONTENT_SECURITY_POLICY, POLICY),
            ];
            (headers, file.bytes.into_owned()).into_response()
        }
        Ok(None) => Problem::new(StatusCode::NOT_FOUND, "there is no such page").into_response(),
        Err(error) => {
            let detail = format!("the page cannot be made: {error}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response()
        }
    }
}
