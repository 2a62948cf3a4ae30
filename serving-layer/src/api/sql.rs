//! `POST /v1/sql`: answers queries.

use std::sync::Arc;

use arrow::error::ArrowError;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Deserialize;
use watershed_shared::position::PositionToken;

use super::accept::negotiate;
use super::problem::{INTERNAL_ERROR, NOT_ACCEPTABLE, Problem};
use super::{Api, body};
use crate::answer::{Answer, AsOf};
use crate::encode::{AnswerFormat, Pieces};

/// What an answer stands for, where the body has no place for it.
const AS_OF: HeaderName = HeaderName::from_static("watershed-as-of");
const COMPLETE: HeaderName = HeaderName::from_static("watershed-complete");

const EXAMPLE: &str =
    "{\"sql\": \"SELECT count(*) FROM edits_by_hour\", \"position\": \"edits=12,40\"}; \"position\" is optional";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SqlRequest {
    sql: String,
    /// Position tokens, joined by `;`.
    position: Option<String>,
}

impl SqlRequest {
    fn positions(&self) -> Result<Vec<PositionToken>, Problem> {
        let tokens = self.position.iter().flat_map(|position| position.split(';')).map(str::trim);
        tokens.filter(|token| !token.is_empty()).map(|token| Ok(token.parse()?)).collect::<Result<_, _>>()
    }
}

/// Answers one SELECT, in the format that `Accept` asks for.
pub(super) async fn query(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let format = negotiate(request.headers())?;
    let request: SqlRequest = body::read_json(request, &api.options, EXAMPLE).await?;
    let answer = api.engine.query(&request.sql, &request.positions()?).await?;
    respond(answer, format)
}

fn respond(answer: Answer, format: AnswerFormat) -> Result<Response, Problem> {
    let mut headers = vec![(CONTENT_TYPE, HeaderValue::from_static(format.content_type()))];
    if format != AnswerFormat::Json {
        headers.push((AS_OF, as_of_header(&answer.as_of)?));
        headers.push((COMPLETE, HeaderValue::from_static(if answer.complete { "true" } else { "false" })));
    }
    let pieces = Pieces::new(answer, format).map_err(|error| cannot_write(&error, format))?;
    let mut response = body_of(pieces)?.into_response();
    response.headers_mut().extend(headers);
    Ok(response)
}

/// A small answer has one piece and a known length; a large one is made while it is sent.
fn body_of(mut pieces: Pieces) -> Result<Body, Problem> {
    let failed = |error: ArrowError| {
        tracing::error!(error = %error, "an answer could not be written");
        error
    };
    let first = pieces.next().transpose().map_err(failed);
    let first =
        first.map_err(|error| Problem::new(INTERNAL_ERROR, format!("the answer cannot be written: {error}")))?;
    let first = first.unwrap_or_default();
    if pieces.ended() {
        return Ok(Body::from(first));
    }
    // An error in here breaks the connection off, so that no client takes a part of the answer for the whole.
    let rest = pieces.map(move |piece| piece.map_err(failed));
    Ok(Body::from_stream(stream::iter(std::iter::once(Ok(first)).chain(rest))))
}

fn cannot_write(error: &ArrowError, format: AnswerFormat) -> Problem {
    let arrow = AnswerFormat::ArrowStream.media_type();
    let detail = format!("the answer has a column that {} cannot hold: {error}; accept {arrow}", format.media_type());
    Problem::new(NOT_ACCEPTABLE, detail).with("available", vec![arrow])
}

/// The JSON text in ASCII: what is beyond can only stand in names, where JSON has escapes for it.
pub(super) fn as_of_header(as_of: &AsOf) -> Result<HeaderValue, Problem> {
    let internal = |error: &dyn std::error::Error| Problem::new(INTERNAL_ERROR, error.to_string());
    let json = serde_json::to_string(as_of).map_err(|error| internal(&error))?;
    let mut ascii = String::with_capacity(json.len());
    for character in json.chars() {
        if matches!(character, ' '..='~') {
            ascii.push(character);
        } else {
            let units =
                character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            ascii.push_str(&units);
        }
    }
    HeaderValue::try_from(ascii).map_err(|error| internal(&error))
}
