//! HTTP/1.1 over one byte stream, both halves: the control socket's server and the command line's client.
//! Everything about hyper stays in this file. Must never hold a whole stream in memory: bodies are
//! read up to a stated limit or line by line, and lines are written as the reader takes them.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use crate::io::executor::Executor;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use smol::net::unix::UnixStream;
use smol::stream::{Stream, StreamExt};
use smol_hyper::rt::{FuturesIo, SmolTimer};

/// Headers, bytes: the longest is a `where` condition in the query. Hyper's buffer can't be smaller than 8 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Header fields; curl sends three.
const HEADERS_MAX: usize = 64;
/// How long a connection may take to say what it wants, or lie idle between two requests.
const HEAD_WAIT: Duration = Duration::from_secs(15);

/// What a client asks. The path is split and decoded; an empty segment at the end is dropped.
pub struct Request {
    pub method: String,
    pub path: Vec<String>,
    pub query: Vec<(String, String)>,
    pub body: Body,
}

/// What it gets.
pub struct Reply {
    pub status: u16,
    /// Methods that the path would take, for a 405.
    pub allow: Option<&'static str>,
    pub content: Content,
}

pub enum Content {
    /// A whole JSON text.
    Json(Vec<u8>),
    /// What Prometheus reads.
    Metrics(String),
    /// JSON lines, each with its line end, for as long as the stream lasts.
    Lines(Pin<Box<dyn Stream<Item = Vec<u8>> + Send>>),
}

impl Reply {
    pub fn json(value: &serde_json::Value) -> Reply {
        Reply { status: 200, allow: None, content: Content::Json(line(value)) }
    }

    pub fn error(status: u16, message: &str) -> Reply {
        Reply { status, allow: None, content: Content::Json(line(&error_json(status, message))) }
    }
}

/// The one form of every error on the control socket.
pub fn error_json(status: u16, message: &str) -> serde_json::Value {
    serde_json::json!({"error": {"status": status, "message": message}})
}

/// One JSON line.
pub fn line(value: &serde_json::Value) -> Vec<u8> {
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

/// Answers the requests of one connection until it ends. `once` closes it after the first.
pub async fn serve_connection<F, Fut>(stream: UnixStream, once: bool, answer: F)
where
    F: Fn(Request) -> Fut,
    Fut: Future<Output = Reply>,
{
    let answer = &answer;
    let serve = service_fn(move |request: hyper::Request<Incoming>| async move {
        Ok::<_, Infallible>(encode(answer(decode(request)).await, once))
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(SmolTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(!once)
        .serve_connection(FuturesIo::new(stream), serve)
        .await;
    if let Err(error) = served {
        log::debug!("control connection ended: {error}");
    }
}

fn decode(request: hyper::Request<Incoming>) -> Request {
    let uri = request.uri();
    let mut path: Vec<String> = uri.path().split('/').skip(1).map(|part| unescape(part, false)).collect();
    path.pop_if(|last| last.is_empty());
    let query = uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty());
    let query = query.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = query.map(|(key, value)| (unescape(key, true), unescape(value, true))).collect();
    Request { method: request.method().to_string(), path, query, body: Body::new(request.into_body()) }
}

fn encode(reply: Reply, close: bool) -> hyper::Response<UnsyncBoxBody<Bytes, Infallible>> {
    let (kind, body) = match reply.content {
        Content::Json(bytes) => ("application/json", Full::new(Bytes::from(bytes)).boxed_unsync()),
        Content::Metrics(text) => {
            ("text/plain; version=0.0.4; charset=utf-8", Full::new(Bytes::from(text)).boxed_unsync())
        }
        Content::Lines(lines) => ("application/x-ndjson", boxed(lines)),
    };
    let mut response = hyper::Response::new(body);
    *response.status_mut() =
        hyper::StatusCode::from_u16(reply.status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(allow) = reply.allow {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    if close {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn boxed(lines: impl Stream<Item = Vec<u8>> + Send + 'static) -> UnsyncBoxBody<Bytes, Infallible> {
    StreamBody::new(lines.map(|line| Ok(Frame::data(Bytes::from(line))))).boxed_unsync()
}

/// A body that arrives, of a request or a response.
pub struct Body {
    incoming: Incoming,
    /// Arrived, not yet handed out.
    rest: Vec<u8>,
    /// Bytes of `rest` that are known to hold no line end, so that a long line is searched once.
    searched: usize,
    /// The rest of a line that was too large is still to come.
    skipping: bool,
}

#[derive(Debug)]
pub enum BodyFault {
    TooLarge,
    Broken(String),
}

impl Body {
    fn new(incoming: Incoming) -> Body {
        Body { incoming, rest: Vec::new(), searched: 0, skipping: false }
    }

    /// All of it.
    pub async fn whole(&mut self, bytes_max: usize) -> Result<Vec<u8>, BodyFault> {
        while self.rest.len() <= bytes_max {
            if !self.more().await? {
                return Ok(std::mem::take(&mut self.rest));
            }
        }
        Err(BodyFault::TooLarge)
    }

    /// The next line without its end. The last one needs no line end. After `TooLarge` comes the line behind it.
    pub async fn line(&mut self, bytes_max: usize) -> Result<Option<Vec<u8>>, BodyFault> {
        loop {
            if let Some(end) = self.rest[self.searched..].iter().position(|b| *b == b'\n') {
                let tail = self.rest.split_off(self.searched + end + 1);
                let mut line = std::mem::replace(&mut self.rest, tail);
                self.searched = 0;
                line.truncate(line.len() - 1);
                line.pop_if(|last| *last == b'\r');
                match std::mem::take(&mut self.skipping) {
                    true => continue,
                    false if line.len() > bytes_max => return Err(BodyFault::TooLarge),
                    false => return Ok(Some(line)),
                }
            }
            self.searched = self.rest.len();
            if self.skipping || self.rest.len() > bytes_max {
                (self.rest, self.searched) = (Vec::new(), 0);
                if !std::mem::replace(&mut self.skipping, true) {
                    return Err(BodyFault::TooLarge);
                }
            }
            if !self.more().await? {
                self.searched = 0;
                let line = std::mem::take(&mut self.rest);
                return Ok((!line.is_empty()).then_some(line));
            }
        }
    }

    /// Reads on to the end for nothing. A client that still sends while it is refused would otherwise
    /// see its connection break, and not the refusal.
    pub async fn drain(mut self) {
        while self.more().await.unwrap_or(false) {
            self.rest.clear();
        }
    }

    async fn more(&mut self) -> Result<bool, BodyFault> {
        match self.incoming.frame().await {
            None => Ok(false),
            Some(Err(error)) => Err(BodyFault::Broken(error.to_string())),
            Some(Ok(frame)) => {
                // Trailers carry nothing that is asked for here.
                self.rest.extend_from_slice(frame.data_ref().map_or(&[], |bytes| bytes));
                Ok(true)
            }
        }
    }
}

/// What a client sends with its request.
pub enum Upload {
    Whole(Vec<u8>),
    /// Chunks as they come, until the channel is closed.
    Stream(smol::channel::Receiver<Vec<u8>>),
}

/// An answer whose body may still be on its way; dropping it closes the connection.
pub struct Response {
    pub status: u16,
    pub body: Body,
    _connection: smol::Task<()>,
}

/// One request on a connection of its own. `target` is path and query, escaped.
pub async fn request(
    executor: &Executor,
    socket: &Path,
    method: &str,
    target: &str,
    upload: Upload,
) -> io::Result<Response> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(FuturesIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = executor.spawn(async move {
        // What went wrong is told by the request or the body that was cut off.
        let _ = connection.await;
    });
    let body = match upload {
        Upload::Whole(bytes) => Full::new(Bytes::from(bytes)).boxed_unsync(),
        Upload::Stream(chunks) => boxed(chunks),
    };
    let request = hyper::Request::builder().method(method).uri(target).header(HOST, "localhost");
    let request = request.body(body).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    Ok(Response { status: response.status().as_u16(), body: Body::new(response.into_body()), _connection: connection })
}

/// Makes a text safe as one path segment or query value.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~$,:@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A `%` that begins no escape stands for itself; `+` is a space in queries only, as forms write it.
fn unescape(text: &str, query: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| byte == b'%').and_then(|hex| {
            let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u8::from_str_radix(hex, 16).ok()
        });
        at += if escaped.is_some() { 3 } else { 1 };
        out.push(escaped.unwrap_or(if query && byte == b'+' { b' ' } else { byte }));
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_both_ways() {
        for text in ["filter", "a b+c%20/ü?&=#", "$body.t > 25 AND level = 'x'", "%", "100%"] {
            let escaped = escape(text);
            assert!(escaped.is_ascii() && !escaped.contains(['/', ' ', '&', '?', '#']), "{escaped}");
            assert_eq!(unescape(&escaped, false), text);
            assert_eq!(unescape(&escaped, true), text);
        }
        assert_eq!(unescape("a+b%2", true), "a b%2");
        assert_eq!(unescape("%+1%zz", false), "%+1%zz");
    }
}
