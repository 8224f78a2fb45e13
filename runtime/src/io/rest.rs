//! One HTTPS request with one JSON answer, over a connection of its own: what the hub's registry is asked.
//! Must never hold an answer that is larger than its limit, and never log what was asked: it may hold keys.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue, IF_MATCH, RETRY_AFTER, USER_AGENT};
use smol_hyper::rt::FuturesIo;

use super::clock::http_date;
use super::dial::within;
use super::tls::Stream;
use super::ws::Dialler;
use crate::model::config::Host;
use crate::model::time::Wall;

/// Largest answer that is read, bytes: a list of all modules of a device.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// For the whole of it.
const WAIT: Duration = Duration::from_secs(30);

/// What is asked.
pub struct Question<'a> {
    pub method: &'a str,
    /// Path and query, escaped.
    pub target: &'a str,
    pub authorization: &'a str,
    pub if_match: Option<&'a str>,
    pub body: Option<Vec<u8>>,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// What the server says the time is.
    pub date: Option<Wall>,
}

/// Of the hub. The error is a sentence for the operator.
pub async fn ask(dialler: &Dialler, host: &str, question: Question<'_>) -> Result<Answer, String> {
    within(WAIT, ask_over(dialler.stream(host), host, question)).await.unwrap_or_else(|| Err(late(host)))
}

/// Of another server than the hub, which is dialled by its own name.
pub async fn ask_at(dialler: &Dialler, server: &Host, question: Question<'_>) -> Result<Answer, String> {
    let asked = ask_over(dialler.stream_to(server), &server.name, question);
    within(WAIT, asked).await.unwrap_or_else(|| Err(late(&server.name)))
}

fn late(host: &str) -> String {
    format!("{host} did not answer within {} s", WAIT.as_secs())
}

async fn ask_over(
    stream: impl Future<Output = Result<Stream, String>>,
    host: &str,
    question: Question<'_>,
) -> Result<Answer, String> {
    let stream = stream.await?;
    let broken = |e: hyper::Error| format!("{host} broke off its answer ({e})");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(FuturesIo::new(stream)).await.map_err(broken)?;
    let mut request = hyper::Request::builder().method(question.method).uri(question.target);
    request = request.header(HOST, host).header(USER_AGENT, concat!("skerry/", env!("CARGO_PKG_VERSION")));
    let mut authorization = HeaderValue::from_str(question.authorization).map_err(|e| e.to_string())?;
    authorization.set_sensitive(true);
    request = request.header(AUTHORIZATION, authorization);
    if let Some(etag) = question.if_match {
        request = request.header(IF_MATCH, etag);
    }
    if question.body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = Full::new(Bytes::from(question.body.unwrap_or_default()));
    let request = request.body(body).map_err(|e| e.to_string())?;
    let asked = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status().as_u16();
        let date = answer.headers().get(DATE).and_then(|date| http_date(date.as_bytes()));
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.trim().parse().ok());
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|e| format!("{host} broke off its answer ({e})"))?.to_bytes().to_vec();
        Ok(Answer { status, body, retry_after: retry_after.map(Duration::from_secs), date })
    };
    let carried = async {
        let ended = connection.await;
        // The answer may still be on its way out of the connection's buffer.
        std::future::pending::<()>().await;
        drop(ended);
        Err(String::new())
    };
    smol::future::or(asked, carried).await
}
