//! One connection from its first byte to its end: proxy, TLS, HTTP, WebSocket, MQTT. Must never decide what a packet means:
//! it carries bytes to the session and back.

mod web;

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use data_encoding::BASE64;
use futures_rustls::TlsAcceptor;
use futures_rustls::rustls::ServerConfig;
use futures_rustls::server::TlsStream;
use smol::Timer;
use smol::future::or;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use smol::net::TcpStream;

use crate::certificate::Authority;
use crate::event::What;
use crate::frames::{self, Came, Frames};
use crate::session::{Session, Stop};
use crate::upgrade::{self, Request, Route};
use crate::world::{End, Order, Traffic, World};

/// For a TLS handshake, a request's head, and saying goodbye.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(30);
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 64 * 1024;
const FRAME_BYTES: usize = 64 * 1024;
/// Orders that wait for a connection.
pub const ORDERS_MAX: usize = 512;
/// The first byte of a CONNECT, where no HTTP comes first.
const CONNECT: u8 = 0x10;

/// What all connections know.
pub struct Shared {
    world: Mutex<World>,
    pub authority: Authority,
    tls: Mutex<Arc<ServerConfig>>,
    /// User and password, as the proxy wants them.
    pub proxy_login: Option<(String, String)>,
}

impl Shared {
    pub fn new(
        world: World,
        authority: Authority,
        tls: Arc<ServerConfig>,
        proxy_login: Option<(String, String)>,
    ) -> Shared {
        Shared { world: Mutex::new(world), authority, tls: Mutex::new(tls), proxy_login }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_tls(&self, tls: Arc<ServerConfig>) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    fn tls(&self) -> Arc<ServerConfig> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Known to the world from the moment it was accepted, so that nothing escapes a cut.
pub struct Connection {
    shared: Arc<Shared>,
    link: u64,
    orders: Receiver<Order>,
    end: Receiver<End>,
    traffic: Arc<Traffic>,
}

/// What a connection turned out to be.
enum Begun {
    Mqtt { web_socket: bool, early: Vec<u8> },
    Rest { first: Request, early: Vec<u8> },
}

enum Turn {
    Read(io::Result<usize>),
    Order(Order),
    Time,
    /// The world has ended it, and nobody gives orders any more.
    Gone,
}

fn stop<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop { code: None, reason: reason.into() })
}

impl Connection {
    /// `None` when there are too many already.
    pub fn begin(shared: &Arc<Shared>) -> Option<Connection> {
        let (orders_in, orders) = async_channel::bounded(ORDERS_MAX);
        let (end_in, end) = async_channel::bounded(1);
        let traffic = Arc::new(Traffic::default());
        let link = shared.world().begin(orders_in, end_in, traffic.clone())?;
        Some(Connection { shared: shared.clone(), link, orders, end, traffic })
    }

    /// Until it ends by itself, or the world ends it.
    pub async fn serve(self, tcp: TcpStream, through_proxy: bool) {
        let _ = tcp.set_nodelay(true);
        let stream = Counted { tcp: tcp.clone(), traffic: self.traffic.clone() };
        let ended = async {
            if let Ok(End::Reset) = self.end.recv().await {
                // Closing then throws away what is not sent yet, and resets.
                let _ = rustix::net::sockopt::set_socket_linger(&tcp, Some(Duration::ZERO));
            }
        };
        let talked = async {
            let Stop { code, reason } = match self.talk(stream, through_proxy).await {
                Ok(()) => Stop { code: None, reason: "nothing more to say".to_owned() },
                Err(stop) => stop,
            };
            self.shared.world().end(self.link, End::Close, code, &reason);
        };
        or(ended, talked).await;
    }

    async fn talk(&self, mut stream: Counted, through_proxy: bool) -> Result<(), Stop> {
        self.while_stalled(None).await;
        if through_proxy {
            within(HANDSHAKE_WITHIN, "the proxy's request", self.proxy(&mut stream)).await?;
        }
        let accept = TlsAcceptor::from(self.shared.tls()).accept(stream);
        let accept = async { accept.await.or_else(|error| stop(format!("TLS: {error}"))) };
        let mut stream = within(HANDSHAKE_WITHIN, "TLS", accept).await?;
        let begun = within(HANDSHAKE_WITHIN, "the request", self.greet(&mut stream)).await;
        let result = match begun {
            Ok(Begun::Mqtt { web_socket, early }) => self.pump(&mut stream, web_socket, early).await,
            Ok(Begun::Rest { first, early }) => self.answer_requests(&mut stream, first, early).await,
            Err(stop) => Err(stop),
        };
        let _ = within(CLOSE_WITHIN, "the close", async { stream.close().await.or_else(|_| stop("")) }).await;
        result
    }

    /// Answers a CONNECT; whatever its target is, what follows is for this cloud.
    async fn proxy(&self, stream: &mut Counted) -> Result<(), Stop> {
        let (request, _) = read_request(stream, Vec::new()).await?;
        let wanted = self
            .shared
            .proxy_login
            .as_ref()
            .map(|(user, password)| format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes())));
        let deny = self.shared.world().faults.deny_proxy;
        let (status, answer) = if request.method != "CONNECT" {
            (405, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
        } else if wanted.is_some() && request.header("proxy-authorization") != wanted.as_deref() {
            let head = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"skerry\"\r\n\
                        Content-Length: 0\r\n\r\n";
            (407, head)
        } else if deny {
            (403, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        } else {
            (200, "HTTP/1.1 200 Connection established\r\n\r\n")
        };
        self.shared.world().say(What::Proxy { target: request.target, status });
        stream.write_all(answer.as_bytes()).await.or_else(stop_io)?;
        stream.flush().await.or_else(stop_io)?;
        if status == 200 { Ok(()) } else { stop(format!("the proxy answered {status}")) }
    }

    async fn greet(&self, stream: &mut TlsStream<Counted>) -> Result<Begun, Stop> {
        let mut first = vec![0; READ_BYTES];
        let length = stream.read(&mut first).await.or_else(stop_io)?;
        first.truncate(length);
        if first.first() == Some(&CONNECT) {
            return Ok(Begun::Mqtt { web_socket: false, early: first });
        }
        let (request, early) = read_request(stream, first).await?;
        let answer = {
            let world = self.shared.world();
            let date = upgrade::date(world.date_skew_s());
            match (request.route(), world.faults.http) {
                (Route::Rest(_), _) => None,
                (_, Some((status, retry_after_s))) => Some(upgrade::plain(status, "by command", &date, retry_after_s)),
                (Route::WebSocket, None) => Some(request.upgrade(&date)),
                (Route::Nobody, None) => Some(upgrade::plain(404, "nothing is here", &date, None)),
            }
        };
        let Some(answer) = answer else { return Ok(Begun::Rest { first: request, early }) };
        stream.write_all(&answer.bytes).await.or_else(stop_io)?;
        stream.flush().await.or_else(stop_io)?;
        if answer.status == 101 {
            return Ok(Begun::Mqtt { web_socket: true, early });
        }
        self.shared.world().say(What::Http { path: request.target, status: answer.status });
        stop(format!("HTTP {}", answer.status))
    }

    async fn pump(&self, stream: &mut TlsStream<Counted>, web_socket: bool, early: Vec<u8>) -> Result<(), Stop> {
        let mut session = Session::new(self.link, web_socket, Instant::now());
        let mut frames = web_socket.then(Frames::default);
        let mut armed = session.next_timeout();
        let mut timer = Timer::at(armed);
        let mut buffer = vec![0; READ_BYTES];
        let mut out = Vec::new();
        let mut result = self.take_in(&mut session, frames.as_mut(), &early, &mut out);
        loop {
            self.while_stalled(Some(&mut session)).await;
            result = self.pack(&mut session, web_socket, &mut out).and(result);
            if !out.is_empty() {
                stream.write_all(&out).await.or_else(stop_io)?;
                stream.flush().await.or_else(stop_io)?;
                out.clear();
            }
            result?;
            let next = session.next_timeout();
            if next < armed {
                armed = next;
                timer.set_at(next);
            }
            let order = async { self.orders.recv().await.map_or(Turn::Gone, Turn::Order) };
            let read = async { Turn::Read(stream.read(&mut buffer).await) };
            let time = async {
                (&mut timer).await;
                Turn::Time
            };
            result = match or(order, or(read, time)).await {
                Turn::Order(order) => {
                    session.handle_order(&mut self.shared.world(), Instant::now(), order);
                    Ok(())
                }
                Turn::Gone => stop("ended"),
                Turn::Read(Ok(0)) => stop("the client closed the connection"),
                Turn::Read(Ok(length)) => self.take_in(&mut session, frames.as_mut(), &buffer[..length], &mut out),
                Turn::Read(Err(error)) => stop(format!("the connection broke: {error}")),
                Turn::Time => {
                    let timed = session.on_timeout(Instant::now());
                    armed = session.next_timeout();
                    timer.set_at(armed);
                    timed
                }
            };
        }
    }

    fn take_in(
        &self,
        session: &mut Session,
        frames: Option<&mut Frames>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Stop> {
        let mut closed = false;
        match frames {
            None => session.input().extend_from_slice(bytes),
            Some(frames) => {
                let came = frames.feed(bytes, session.input());
                for came in came.or_else(|reason| stop(format!("malformed: {reason}")))? {
                    match came {
                        Came::Ping(payload) => frames::pong(&payload, out),
                        Came::Close => closed = true,
                    }
                }
            }
        }
        let mut world = self.shared.world();
        if !world.is_live(self.link) {
            return stop("ended");
        }
        session.handle_input(&mut world, Instant::now())?;
        if closed {
            frames::close(out);
            return stop("the client closed the WebSocket");
        }
        Ok(())
    }

    /// The session's output, in frames where there are any.
    fn pack(&self, session: &mut Session, web_socket: bool, out: &mut Vec<u8>) -> Result<(), Stop> {
        let packets = session.take_output();
        if packets.is_empty() {
            return Ok(());
        }
        let (frame_bytes_max, mid_frame) = {
            let mut world = self.shared.world();
            let mid_frame = session.identity().is_some_and(|identity| world.faults.takes_mid_frame(identity));
            (world.faults.frame_bytes_max.unwrap_or(FRAME_BYTES), mid_frame)
        };
        let before = out.len();
        if web_socket {
            packets.chunks(frame_bytes_max.max(1)).for_each(|chunk| frames::binary(chunk, out));
        } else {
            out.extend(packets);
        }
        if mid_frame {
            out.truncate(before + (out.len() - before).div_ceil(2));
            return stop("by command, in the middle of a frame");
        }
        Ok(())
    }

    /// Nothing is read and nothing written meanwhile; orders are kept.
    async fn while_stalled(&self, mut session: Option<&mut Session>) {
        while self.shared.world().is_stalled(self.link) {
            let Ok(order) = self.orders.recv().await else { return };
            if let Some(session) = &mut session {
                session.handle_order(&mut self.shared.world(), Instant::now(), order);
            }
        }
    }
}

/// The head and what came behind it.
async fn read_request(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut bytes: Vec<u8>,
) -> Result<(Request, Vec<u8>), Stop> {
    let mut buffer = [0; 4096];
    loop {
        let parsed = Request::parse(&bytes);
        if let Err(reason) = &parsed {
            // The connection ends either way: whether the client hears of it is its own affair.
            let _ = stream.write_all(&upgrade::plain(400, reason, &upgrade::date(0), None).bytes).await;
            let _ = stream.flush().await;
        }
        if let Some(request) = parsed.or_else(stop)? {
            let early = bytes.split_off(request.length);
            return Ok((request, early));
        }
        match stream.read(&mut buffer).await.or_else(stop_io)? {
            0 => return stop("the client closed the connection before it asked for anything"),
            length => bytes.extend_from_slice(&buffer[..length]),
        }
    }
}

fn stop_io<T>(error: io::Error) -> Result<T, Stop> {
    stop(format!("the connection broke: {error}"))
}

async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    let late = async {
        Timer::after(limit).await;
        stop(format!("{what} took longer than {limit:?}"))
    };
    or(work, late).await
}

/// A TCP connection whose bytes are counted.
struct Counted {
    tcp: TcpStream,
    traffic: Arc<Traffic>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        if let Poll::Ready(Ok(length)) = polled {
            self.traffic.read.fetch_add(length as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        if let Poll::Ready(Ok(length)) = polled {
            self.traffic.written.fetch_add(length as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_close(cx)
    }
}
