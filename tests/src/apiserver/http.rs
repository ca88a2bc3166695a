//! Requests and their answers.
//!
//! Decides what each path and method means, as the API conventions have it: list in pages, watch,
//! get, create, replace, apply, delete. Must not know connections. Invariant: every refusal is a
//! `Status` object with the right code and reason.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Response};
use serde_json::{Value, json};

use super::Shared;
use super::faults::{Request, WrongAnswer};
use super::lock;
use super::resources::{Target, target};
use super::selector::Selector;
use super::store::Name;
use super::watch;

/// A body: at once, or line by line.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The parameters of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(decoded.collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn is(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1"))
    }
}

/// Percent-decoding (RFC 3986), `+` for a blank.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or(b'?'),
                _ => b'?',
            },
            plain => plain,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Answers a request.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (at, method, path) = (Instant::now(), request.method().clone(), request.uri().path().to_owned());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let uri = format!("{path}?{}", decode(request.uri().query().unwrap_or_default()));
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    tokio::time::sleep(shared.faults.delay()).await;
    let response = respond(&shared, &method, &path, &query, &body);
    let status = response.status().as_u16();
    shared.faults.note(Request { at, method: method.to_string(), uri, status });
    Ok(response)
}

fn respond(shared: &Arc<Shared>, method: &Method, path: &str, query: &Query, body: &Bytes) -> Response<Body> {
    if let "/version" = path {
        return json_body(200, &json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2"}));
    }
    if let "/healthz" | "/livez" | "/readyz" = path {
        return text(200, "ok".to_owned());
    }
    let Some(target) = target(path) else {
        return status(404, "NotFound", "the server could not find the requested resource");
    };
    if let Some(wrong) = shared.faults.take(&target.plural, query.is("watch")) {
        return wrong_answer(&wrong);
    }
    if !lock(&shared.settings).serves(&target.plural) {
        return status(404, "NotFound", "the server could not find the requested resource");
    }
    match (method, &target.name) {
        (&Method::GET, None) if query.is("watch") => watch::answer(shared, target, query),
        (&Method::GET, None) => list(shared, &target, query),
        (&Method::GET, Some(name)) => match lock(&shared.store).get(&target.resource, &target.key(name)) {
            Some(stored) => json_text(200, stored.text.clone()),
            None => not_found(&target, name),
        },
        (&Method::POST | &Method::PUT | &Method::PATCH, _) => write(shared, method, &target, body),
        (&Method::DELETE, Some(name)) => {
            if shared.remove(&target.resource, &target.key(name), None) {
                json_body(200, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            } else {
                not_found(&target, name)
            }
        }
        _ => {
            status(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        }
    }
}

fn list(shared: &Shared, target: &Target, query: &Query) -> Response<Body> {
    let selector = match Selector::parse(query.get("labelSelector"), query.get("fieldSelector")) {
        Ok(selector) => selector,
        Err(error) => return status(400, "BadRequest", &error),
    };
    let store = lock(&shared.store);
    let (version, after) = match query.get("continue").map(continued) {
        None => (store.version(), None),
        Some(Some((version, name))) => (version, Some(name)),
        Some(None) => return status(400, "BadRequest", "the continue token is not valid"),
    };
    // A page of a list that began before history was forgotten cannot be told any more.
    if after.is_some() && store.since(&target.resource, version).is_err() {
        return status(410, "Expired", "The provided continue parameter is too old");
    }
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|&limit: &usize| limit > 0);
    let mut items = store.list(&target.resource, &selector, after.as_ref()).peekable();
    let (mut body, mut last, mut count) = (String::new(), None, 0);
    while count < limit.unwrap_or(usize::MAX)
        && let Some((name, stored)) = items.next()
    {
        if target.namespace.as_ref().is_some_and(|namespace| *namespace != name.0) {
            continue;
        }
        body.push_str(if count == 0 { "" } else { "," });
        body.push_str(&stored.text);
        (last, count) = (Some(name), count + 1);
    }
    let token = match (items.peek(), last) {
        (Some(_), Some((namespace, name))) => format!("{version} {namespace} {name}"),
        _ => String::new(),
    };
    let (kind, api) = (target.kind, target.api_version);
    let meta = json!({"resourceVersion": version.to_string(), "continue": token});
    json_text(
        200,
        format!(
            "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{api}\",\"metadata\":{meta},\"items\":[{body}]}}"
        ),
    )
}

fn continued(token: &str) -> Option<(u64, Name)> {
    let mut parts = token.split(' ');
    let version = parts.next()?.parse().ok()?;
    Some((version, (parts.next()?.to_owned(), parts.next()?.to_owned())))
}

/// Creates, replaces, or applies: the object is stored as it is sent.
fn write(shared: &Shared, method: &Method, target: &Target, body: &Bytes) -> Response<Body> {
    // What is applied comes as YAML, of which JSON is a part.
    let parsed: Option<Value> =
        std::str::from_utf8(body).ok().and_then(|text| serde_saphyr::from_str(text).ok());
    let Some(mut object) = parsed.filter(Value::is_object) else {
        return status(400, "BadRequest", "the body is no object");
    };
    if object["kind"] != *target.kind || object["apiVersion"] != *target.api_version {
        let message = format!("the path is for {} {}, the body is another", target.api_version, target.kind);
        return status(400, "BadRequest", &message);
    }
    let named = object["metadata"]["name"].as_str().map(str::to_owned);
    let Some(name) = target.name.clone().or(named) else {
        return status(422, "Invalid", "metadata.name: Required value");
    };
    object["metadata"]["name"] = json!(name);
    if let Some(namespace) = &target.namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    let key = target.key(&name);
    let exists = lock(&shared.store).get(&target.resource, &key).is_some();
    if exists && *method == Method::POST {
        return status(409, "AlreadyExists", &format!("{} {name:?} already exists", target.plural));
    }
    shared.put(&target.resource, key.clone(), object, false);
    match lock(&shared.store).get(&target.resource, &key) {
        Some(stored) => json_text(if exists { 200 } else { 201 }, stored.text.clone()),
        None => status(409, "Conflict", "it was deleted meanwhile"),
    }
}

fn wrong_answer(wrong: &WrongAnswer) -> Response<Body> {
    let reason = match wrong.status {
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        _ => "Unknown",
    };
    let mut response = status(wrong.status, reason, "a fault on command");
    if let Some(seconds) = wrong.retry_after {
        response.headers_mut().insert(hyper::header::RETRY_AFTER, seconds.into());
    }
    response
}

fn not_found(target: &Target, name: &str) -> Response<Body> {
    status(404, "NotFound", &format!("{} {name:?} not found", target.plural))
}

/// A refusal.
pub(super) fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    json_body(code, &status_object(code, reason, message))
}

/// The object that says a refusal.
pub(super) fn status_object(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn json_body(code: u16, value: &Value) -> Response<Body> {
    json_text(code, value.to_string())
}

fn json_text(code: u16, text: String) -> Response<Body> {
    let mut response = self::text(code, text);
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}

fn text(code: u16, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    response
}
