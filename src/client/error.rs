//! Why a request has no answer, sorted by what the platform may have done with it.

use std::fmt;

use reqwest::{StatusCode, Url};
use serde::Deserialize;

/// Longest piece of an answer's text that is quoted when the answer is no problem document.
const QUOTED_BYTES_MAX: usize = 300;

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// There was no connection, so the platform has not seen the request.
    Unreachable {
        /// The platform's address.
        url: String,
        /// The system's words.
        reason: String,
    },
    /// The connection broke before the answer; whether the request took effect is unknown.
    Lost {
        /// The platform's address.
        url: String,
        /// The system's words.
        reason: String,
    },
    /// The platform answered that it will not, or cannot now.
    Refused(Problem),
    /// An answer that is not what the API promises: a different version, or something else at that address.
    Unreadable {
        /// What was asked.
        url: String,
        /// What was not understood.
        reason: String,
    },
}

impl ClientError {
    pub(super) fn from_transport(url: &Url, error: &reqwest::Error) -> ClientError {
        let reason = root_cause(error);
        let url = url.to_string();
        if error.is_connect() { ClientError::Unreachable { url, reason } } else { ClientError::Lost { url, reason } }
    }

    /// The last error of attempts of which one `lost` its answer, at an address and for a reason: that the last one
    /// changed nothing does not say that none did.
    pub(super) fn after(self, lost: Option<(String, String)>) -> ClientError {
        let says_nothing = match &self {
            ClientError::Unreachable { .. } => true,
            ClientError::Refused(problem) => problem.says_try_later(),
            ClientError::Lost { .. } | ClientError::Unreadable { .. } => false,
        };
        match lost {
            Some((url, reason)) if says_nothing => {
                ClientError::Lost { url, reason: format!("{reason}; and since then: {}", self.cause()) }
            }
            _ => self,
        }
    }

    /// What went wrong, without advice: for messages that are shown while the request is tried again.
    pub(crate) fn cause(&self) -> String {
        match self {
            ClientError::Unreachable { url, reason } => format!("no connection to {url}: {reason}"),
            _ => self.to_string(),
        }
    }

    /// The platform's refusal, if it is one.
    pub(crate) fn problem(&self) -> Option<&Problem> {
        match self {
            ClientError::Refused(problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether the request certainly changed nothing.
    pub(crate) fn changed_nothing(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } => true,
            ClientError::Refused(problem) => problem.status < 500 || problem.says_try_later(),
            ClientError::Lost { .. } | ClientError::Unreadable { .. } => false,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Unreachable { url, reason } => write!(
                f,
                "cannot reach a platform at {url}: {reason}; start one with `watershed run PROJECT_DIR`, \
                 or say where it is with --url or WATERSHED_URL"
            ),
            ClientError::Lost { url, reason } => write!(f, "the connection to {url} broke before the answer: {reason}"),
            ClientError::Refused(problem) => problem.fmt(f),
            ClientError::Unreadable { url, reason } => write!(
                f,
                "the answer of {url} is not what this version of the command expects: {reason}; \
                 check that the platform at this address has the same version"
            ),
        }
    }
}

impl std::error::Error for ClientError {}

/// A refusal, from the problem document (RFC 9457) that came with it or from whatever came instead.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The platform's words.
    pub(crate) detail: String,
    /// The whole body, for fields that some problems add.
    pub(crate) body: Vec<u8>,
}

impl Problem {
    pub(super) fn read(status: StatusCode, body: Vec<u8>) -> Problem {
        #[derive(Deserialize)]
        struct Document {
            title: Option<String>,
            detail: Option<String>,
        }
        let document: Option<Document> = serde_json::from_slice(&body).ok();
        let worded = document.and_then(|document| document.detail.or(document.title));
        let detail = worded.unwrap_or_else(|| quoted(status, &body));
        Problem { status: status.as_u16(), detail, body }
    }

    /// What the `type` of the document ends in, if there is one.
    pub(crate) fn kind(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Document {
            r#type: String,
        }
        let document: Document = serde_json::from_slice(&self.body).ok()?;
        document.r#type.rsplit('/').next().map(str::to_owned)
    }

    /// Whether nothing was done and the same request may succeed later.
    pub(crate) fn says_try_later(&self) -> bool {
        // The other 507 is a query that needs more memory, and always will.
        let disk_full = self.status == 507 && String::from_utf8_lossy(&self.body).contains("problems/disk-full");
        matches!(self.status, 429 | 503) || disk_full
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (HTTP {})", self.detail, self.status)
    }
}

fn quoted(status: StatusCode, body: &[u8]) -> String {
    let reason = status.canonical_reason().unwrap_or("refused").to_lowercase();
    let text = String::from_utf8_lossy(&body[..body.len().min(QUOTED_BYTES_MAX)]);
    match text.trim() {
        "" => reason,
        text => format!("{reason}: {text}"),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
