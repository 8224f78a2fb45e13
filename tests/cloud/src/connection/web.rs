//! Requests for the REST interfaces on one connection, one after the other. Must never decide what comes of a request; of
//! its form it refuses what it cannot read, and then closes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_rustls::server::TlsStream;
use smol::Timer;
use smol::future::or;
use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::{Connection, Counted, HANDSHAKE_WITHIN, Shared, read_request, stop, stop_io, within};
use crate::event::What;
use crate::registry::{BODY_BYTES_MAX, Call, Refusal, Reply, Step};
use crate::session::Stop;
use crate::upgrade::{self, Request, Route};

/// For the next request.
const IDLE_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks for a client that is to be called.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Connection {
    /// `rest` is what came behind the first one.
    pub(super) async fn answer_requests(
        &self,
        stream: &mut TlsStream<Counted>,
        first: Request,
        mut rest: Vec<u8>,
    ) -> Result<(), Stop> {
        self.shared.world().quiet(self.link);
        let mut request = first;
        loop {
            let (reply, readable) = match body_length(&request) {
                Ok(length) => {
                    let body = read_body(stream, &request, length, &mut rest);
                    let body = within(HANDSHAKE_WITHIN, "the body", body).await?;
                    (self.answer(&request, &body).await, true)
                }
                Err(refusal) => (refusal.into_reply(), false),
            };
            let close = !readable || request.wants_close();
            let date = upgrade::date(self.shared.world().date_skew_s());
            let bytes = reply.bytes(upgrade::phrase(reply.status), &date, close);
            // Before the client can act upon it.
            self.shared.world().say(What::Http { path: request.target, status: reply.status });
            stream.write_all(&bytes).await.or_else(stop_io)?;
            stream.flush().await.or_else(stop_io)?;
            if close {
                return Ok(());
            }
            let Ok(next) = within(IDLE_WITHIN, "the next request", read_request(stream, rest)).await else {
                return Ok(());
            };
            (request, rest) = next;
        }
    }

    async fn answer(&self, request: &Request, body: &[u8]) -> Reply {
        self.while_stalled(None).await;
        let Route::Rest(resource) = request.route() else {
            return Refusal::new(404, "NotFound", "nothing is here").into_reply();
        };
        let step = self.shared.world().ask(request, &resource, body);
        match step {
            Step::Reply(reply) => reply,
            Step::Call(call) => self.call(&call).await,
        }
    }

    async fn call(&self, call: &Call) -> Reply {
        let until = Instant::now() + call.connect;
        let sent = loop {
            if let Some(sent) = self.shared.world().send_call(call) {
                break sent;
            }
            if Instant::now() >= until {
                let mut world = self.shared.world();
                let rid = world.new_call(&call.identity, None);
                world.answer_call(&call.identity, &rid, 404, serde_json::Value::Null);
                return call.absent();
            }
            Timer::after(LOOK_EVERY).await;
        };
        let forget = Forget { shared: &self.shared, rid: &sent.rid };
        let late = async {
            Timer::after(call.response).await;
            None
        };
        let answered = or(async { sent.answer.recv().await.ok() }, late).await;
        if answered.is_none() {
            self.shared.world().answer_call(&call.identity, forget.rid, 504, serde_json::Value::Null);
        }
        answered.map_or_else(|| call.late(), |(status, payload)| Call::answered(status, &payload))
    }
}

/// A call whose connection ends is waited for by nobody.
struct Forget<'a> {
    shared: &'a Arc<Shared>,
    rid: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.world().forget_call(self.rid);
    }
}

fn body_length(request: &Request) -> Result<usize, Refusal> {
    if request.header("transfer-encoding").is_some() {
        return Err(Refusal::new(411, "LengthRequired", "a body comes with its Content-Length"));
    }
    let Some(length) = request.header("content-length") else { return Ok(0) };
    let length = length.parse::<usize>().map_err(|_| Refusal::argument("Content-Length is no number"))?;
    if length > BODY_BYTES_MAX {
        let message = format!("a body has at most {BODY_BYTES_MAX} bytes");
        return Err(Refusal::new(413, "MessageTooLarge", message));
    }
    Ok(length)
}

/// What is behind it stays in `rest`.
async fn read_body(
    stream: &mut TlsStream<Counted>,
    request: &Request,
    length: usize,
    rest: &mut Vec<u8>,
) -> Result<Vec<u8>, Stop> {
    if length > rest.len() && request.header("expect").is_some_and(|what| what.eq_ignore_ascii_case("100-continue")) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.or_else(stop_io)?;
        stream.flush().await.or_else(stop_io)?;
    }
    let mut buffer = [0; 4096];
    while rest.len() < length {
        match stream.read(&mut buffer).await.or_else(stop_io)? {
            0 => return stop("the client closed the connection inside a body"),
            read => rest.extend_from_slice(&buffer[..read]),
        }
    }
    let behind = rest.split_off(length);
    Ok(std::mem::replace(rest, behind))
}
