//! The HTTP in front: a request's head, and the answers to it. Must never take a request apart from where a REST interface
//! could be added: each path is one line of `route`.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use ring::digest;

use crate::registry::Resource;

/// Of a request's head.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// From RFC 6455.
const ACCEPT_SALT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    headers: Vec<(String, String)>,
    is_old: bool,
    /// Of the head, so that what follows can be told from it.
    pub length: usize,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    WebSocket,
    Rest(Resource),
    Nobody,
}

/// What is told, and whether the connection then speaks MQTT.
pub struct Answer {
    pub status: u16,
    pub bytes: Vec<u8>,
}

impl Request {
    /// `None` when there is more to come.
    pub fn parse(bytes: &[u8]) -> Result<Option<Request>, String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes).map_err(|e| format!("no HTTP request: {e}"))? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial if bytes.len() > HEAD_BYTES_MAX => return Err("the head is too long".to_owned()),
            httparse::Status::Partial => return Ok(None),
        };
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
        Ok(Some(Request {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            headers: request.headers.iter().map(|h| (h.name.to_ascii_lowercase(), text(h.value))).collect(),
            is_old: request.version == Some(0),
            length,
        }))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// HTTP/1.0 closes unless it says otherwise.
    pub fn wants_close(&self) -> bool {
        self.has_word("connection", "close") || (self.is_old && !self.has_word("connection", "keep-alive"))
    }

    fn has_word(&self, header: &str, word: &str) -> bool {
        let all = self.headers.iter().filter(|(name, _)| name == header);
        all.flat_map(|(_, value)| value.split(',')).any(|have| have.trim().eq_ignore_ascii_case(word))
    }

    pub fn route(&self) -> Route {
        let path = self.target.split('?').next().unwrap_or_default();
        match path {
            "/$iothub/websocket" | "/%24iothub/websocket" => Route::WebSocket,
            _ => Resource::parse(&self.method, &self.target).map_or(Route::Nobody, Route::Rest),
        }
    }

    /// To a request for the WebSocket; or a refusal with the reason as its body.
    pub fn upgrade(&self, date: &str) -> Answer {
        let refuse = |status: u16, reason: &str| plain(status, reason, date, None);
        if self.method != "GET" || !self.has_word("connection", "upgrade") || !self.has_word("upgrade", "websocket") {
            return refuse(400, "this path wants an upgrade to WebSocket");
        }
        if self.header("sec-websocket-version") != Some("13") {
            return refuse(426, "the version is 13");
        }
        if !self.has_word("sec-websocket-protocol", "mqtt") {
            return refuse(400, "the sub-protocol is mqtt");
        }
        let Some(key) = self.header("sec-websocket-key") else { return refuse(400, "there is no Sec-WebSocket-Key") };
        let accept = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{ACCEPT_SALT}").as_bytes());
        let accept = BASE64.encode(accept.as_ref());
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nDate: {date}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        Answer { status: 101, bytes: head.into_bytes() }
    }
}

/// An answer after which the connection ends.
pub fn plain(status: u16, text: &str, date: &str, retry_after_s: Option<u32>) -> Answer {
    let retry = retry_after_s.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
    let head = format!(
        "HTTP/1.1 {status} {}\r\nDate: {date}\r\nContent-Type: text/plain\r\n{retry}Content-Length: {}\r\n\
         Connection: close\r\n\r\n{text}",
        phrase(status),
        text.len()
    );
    Answer { status, bytes: head.into_bytes() }
}

pub fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

/// The time now as HTTP writes it, or as wrong as wanted.
pub fn date(skew_s: i64) -> String {
    let skew = Duration::from_secs(skew_s.unsigned_abs());
    let now = SystemTime::now();
    let then = if skew_s < 0 { now.checked_sub(skew) } else { now.checked_add(skew) };
    // What the format can't write (before 1970, after 9999) becomes its first second.
    let fits =
        then.filter(|then| then.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|d| d.as_secs() < 253_402_300_800));
    httpdate::fmt_http_date(fits.unwrap_or(SystemTime::UNIX_EPOCH))
}
