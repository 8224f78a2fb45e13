//! MQTT's bytes over a WebSocket over TLS, from name look-up to the last frame. The one place that knows async-tungstenite.
//! Must never take anything from a server that is not the host: `tls` sees to that.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_tungstenite::tungstenite::client::IntoClientRequest;
use async_tungstenite::tungstenite::http::HeaderValue;
use async_tungstenite::tungstenite::protocol::WebSocketConfig;
use async_tungstenite::tungstenite::{Error as WsError, Message};
use async_tungstenite::{WebSocketReceiver, WebSocketSender, client_async_with_config};
use smol::stream::StreamExt;

use super::clock::{TimeFloor, http_date};
use super::dial::{dial, within};
use super::tls::{Stream, Tls};
use crate::model::config::{Host, Proxy};
use crate::model::time::Wall;

/// Read at once, bytes. Answers are small, and an idle connection keeps this.
const READ_BYTES: usize = 4 * 1024;
/// Largest frame that is taken, bytes.
const FRAME_BYTES_MAX: usize = 512 * 1024;
/// Where the hub listens.
const PORT: u16 = 443;

/// How to get to the cloud; one for all identities.
pub struct Dialler {
    tls: Tls,
    address: Option<Host>,
    proxy: Option<Proxy>,
    /// For TLS and upgrade together.
    timeout: Duration,
}

/// Why there is no connection: a sentence for the operator.
pub struct Fault {
    pub why: String,
    /// The server is there, and busy; it asks to wait so long, zero where it does not say.
    pub busy: Option<Duration>,
}

impl From<String> for Fault {
    fn from(why: String) -> Fault {
        Fault { why, busy: None }
    }
}

/// The two halves of an open connection.
pub struct Connection {
    pub sender: Sender,
    pub receiver: Receiver,
    /// What the server says the time is.
    pub date: Option<Wall>,
}

pub struct Sender(WebSocketSender<Stream>);
pub struct Receiver(WebSocketReceiver<Stream>);

impl Dialler {
    /// Reads the certificates that are trusted. The error is a sentence for the operator.
    pub fn new(
        ca: Option<&Path>,
        address: Option<Host>,
        proxy: Option<Proxy>,
        timeout: Duration,
        floor: Arc<TimeFloor>,
    ) -> Result<Dialler, String> {
        Ok(Dialler { tls: Tls::new(ca, floor, "[upstream]")?, address, proxy, timeout })
    }

    /// A WebSocket to `host_name`, for MQTT.
    pub async fn dial(&self, host_name: &str, path: &str) -> Result<Connection, Fault> {
        let tls = self.stream(host_name).await?;
        within(self.timeout, open(tls, host_name, path))
            .await
            .unwrap_or_else(|| Err(self.silent(&self.target(host_name)).into()))
    }

    /// TLS with `host_name`. The error is a sentence for the operator.
    pub(super) async fn stream(&self, host_name: &str) -> Result<Stream, String> {
        self.stream_by(host_name, &self.target(host_name)).await
    }

    /// The same with another server than the hub: `address` is not for it.
    pub(super) async fn stream_to(&self, server: &Host) -> Result<Stream, String> {
        self.stream_by(&server.name, server).await
    }

    async fn stream_by(&self, host_name: &str, target: &Host) -> Result<Stream, String> {
        let tcp = dial(target, self.proxy.as_ref()).await?;
        within(self.timeout, self.tls.connect(host_name, tcp)).await.unwrap_or_else(|| Err(self.silent(target)))
    }

    fn target(&self, host_name: &str) -> Host {
        self.address.clone().unwrap_or(Host { name: host_name.to_owned(), port: PORT })
    }

    fn silent(&self, target: &Host) -> String {
        format!("{target} took the connection and then said nothing for {} s", self.timeout.as_secs())
    }
}

async fn open(tls: Stream, host_name: &str, path: &str) -> Result<Connection, Fault> {
    let mut request = format!("wss://{host_name}{path}").into_client_request().map_err(|e| e.to_string())?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * FRAME_BYTES_MAX)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let opened = client_async_with_config(request, tls, Some(config)).await;
    let (socket, answer) = opened.map_err(|e| upgrade_fault(host_name, &e))?;
    let spoken = answer.headers().get("Sec-WebSocket-Protocol");
    if !spoken.is_some_and(|p| p.as_bytes().eq_ignore_ascii_case(b"mqtt")) {
        return Err(format!("{host_name} does not speak MQTT over WebSockets; check HostName").into());
    }
    let date = answer.headers().get("Date").and_then(|date| http_date(date.as_bytes()));
    let (sender, receiver) = socket.split();
    Ok(Connection { sender: Sender(sender), receiver: Receiver(receiver), date })
}

fn upgrade_fault(host: &str, error: &WsError) -> Fault {
    let why = match error {
        WsError::Http(answer) => match answer.status().as_u16() {
            401 | 403 => format!("{host} refuses the WebSocket with {}", answer.status()),
            404 => format!("{host} has no WebSocket for MQTT (404); check HostName"),
            429 | 503 => format!("{host} is busy ({}); trying again later", answer.status()),
            _ => format!("{host} answers {} in the place of a WebSocket; check HostName", answer.status()),
        },
        other => format!("no WebSocket with {host}: {other}"),
    };
    let busy = match error {
        WsError::Http(answer) if matches!(answer.status().as_u16(), 429 | 503) => {
            let asked = answer.headers().get("Retry-After").and_then(|wait| wait.to_str().ok()?.trim().parse().ok());
            Some(Duration::from_secs(asked.unwrap_or(0)))
        }
        _ => None,
    };
    Fault { why, busy }
}

impl Sender {
    /// One frame. The error is a sentence for the operator.
    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        self.0.send(Message::binary(bytes)).await.map_err(|e| ended(&e))
    }

    pub async fn close(&mut self) {
        let _ = self.0.close(None).await;
    }
}

impl Receiver {
    /// The bytes of the next frame. The error is a sentence for the operator.
    pub async fn read(&mut self) -> Result<async_tungstenite::tungstenite::Bytes, String> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                Some(Ok(Message::Close(frame))) => {
                    let why =
                        frame.map_or(String::new(), |frame| format!(": {} {}", frame.code, frame.reason.as_str()));
                    return Err(format!("the cloud closed the connection{why}"));
                }
                Some(Ok(Message::Text(_))) => return Err("the cloud sent text in the place of MQTT".to_owned()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(ended(&error)),
                None => return Err("the cloud closed the connection".to_owned()),
            }
        }
    }
}

fn ended(error: &WsError) -> String {
    match error {
        WsError::ConnectionClosed | WsError::AlreadyClosed => "the cloud closed the connection".to_owned(),
        WsError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the cloud closed the connection without a word".to_owned()
        }
        WsError::Io(error) => format!("the connection broke ({error})"),
        other => format!("the connection broke ({other})"),
    }
}
