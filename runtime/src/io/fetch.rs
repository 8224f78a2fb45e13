//! GET over HTTPS, for images: redirects, a body as it comes, and one sentence for everything that can go wrong.
//! Must never send credentials to another host than the one that they are for, and never wait without an end.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Uri;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, USER_AGENT};
use smol::io::{AsyncRead, AsyncWrite};
use smol_hyper::rt::FuturesIo;

use super::clock::{self, TimeFloor, http_date};
use super::dial::{dial, within};
use super::tls::Tls;
use crate::model::config::{Host, Proxy};
use crate::model::reference::{host, is_loopback};

/// Hosts that one answer may be looked for at: registries send to their storage, that to a nearer one.
const REDIRECTS_MAX: usize = 5;
/// Answers of "later" that are waited out, and the longest such wait; beyond that whoever asked has to ask again.
const LATER_MAX: u32 = 3;
const LATER_WAIT_MAX: Duration = Duration::from_secs(30);
const LATER_WAIT: Duration = Duration::from_secs(2);

/// Why there is nothing; each is a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody answered, or not to the end, or not now: the same may succeed later.
    Away(String),
    /// What came is not what was asked for, or it was refused.
    Refused(String),
    /// This device can't take it.
    Here(String),
}

impl Fault {
    pub fn text(&self) -> &str {
        match self {
            Fault::Away(text) | Fault::Refused(text) | Fault::Here(text) => text,
        }
    }
}

/// How to get there. Made for one errand: the certificates that it holds take a megabyte.
pub struct Web {
    tls: Tls,
    proxy: Option<Proxy>,
    /// Longest silence.
    patience: Duration,
}

/// What is asked of one place.
#[derive(Clone, Copy, Default)]
pub struct Question<'a> {
    pub accept: Option<&'a str>,
    /// Sent to the host of the URL only.
    pub authorization: Option<&'a str>,
    /// Leave out so many bytes.
    pub from: u64,
}

/// An answer whose body is still to come.
pub struct Answer {
    pub status: u16,
    /// Where it came from in the end.
    pub host: String,
    headers: HeaderMap,
    body: Incoming,
    /// Carries the bytes for as long as it is polled.
    connection: Connection,
    patience: Duration,
}

struct Connection {
    work: Pin<Box<dyn Future<Output = Result<(), hyper::Error>>>>,
    /// Not to be polled again.
    over: bool,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Web {
    /// `ca`: as in [images]. The error is a sentence for the operator.
    pub fn new(
        ca: Option<&std::path::Path>,
        proxy: Option<Proxy>,
        patience: Duration,
        floor: Arc<TimeFloor>,
    ) -> Result<Web, Fault> {
        Ok(Web { tls: Tls::new(ca, floor, "[images]").map_err(Fault::Here)?, proxy, patience })
    }

    /// The answer of the last host that the way leads to, whatever its status; one that says "later" is asked again.
    pub async fn get(&self, url: &str, question: Question<'_>) -> Result<Answer, Fault> {
        let mut later = 0;
        loop {
            let answer = self.follow(url, question).await?;
            if !matches!(answer.status, 429 | 503) || later == LATER_MAX {
                return Ok(answer);
            }
            match answer.retry_after() {
                Some(wait) if wait > LATER_WAIT_MAX => return Ok(answer),
                wait => drop(smol::Timer::after(wait.unwrap_or(LATER_WAIT * 2u32.pow(later))).await),
            }
            later += 1;
        }
    }

    async fn follow(&self, url: &str, question: Question<'_>) -> Result<Answer, Fault> {
        let mut url: Uri = url.parse().map_err(|e| Fault::Refused(format!("{url} is no URL: {e}")))?;
        let own = url.authority().cloned();
        for _ in 0..=REDIRECTS_MAX {
            let ours = url.authority() == own.as_ref();
            let question = Question { authorization: question.authorization.filter(|_| ours), ..question };
            let answer = self.ask(&url, question).await?;
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            url = answer.header(LOCATION.as_str()).and_then(|to| resolve(&url, to)).ok_or_else(|| {
                Fault::Refused(format!("{} sends elsewhere ({}) without saying where", answer.host, answer.status))
            })?;
        }
        Err(Fault::Refused(format!("{} sends in circles: more than {REDIRECTS_MAX} redirections", shown(&url))))
    }

    async fn ask(&self, url: &Uri, question: Question<'_>) -> Result<Answer, Fault> {
        let place = shown(url);
        let stream = self.stream(url).await?;
        let broken = |e: hyper::Error| Fault::Away(format!("{place} broke off its answer ({e}); trying again later"));
        let opened = hyper::client::conn::http1::handshake(FuturesIo::new(stream)).await;
        let (mut sender, connection) = opened.map_err(broken)?;
        let mut connection = Connection { work: Box::pin(connection), over: false };
        let request = request(url, question)?;
        let asked = carry(&mut connection, sender.send_request(request));
        let answer =
            within(self.patience, asked).await.ok_or_else(|| silent(&place, self.patience))?.map_err(broken)?;
        let (head, body) = answer.into_parts();
        Ok(Answer {
            status: head.status.as_u16(),
            host: place,
            headers: head.headers,
            body,
            connection,
            patience: self.patience,
        })
    }

    async fn stream(&self, url: &Uri) -> Result<Box<dyn Duplex>, Fault> {
        let authority = url.authority().map_or("", |a| a.as_str());
        let target = host(authority).ok_or_else(|| Fault::Refused(format!("{url} names no host that can be asked")))?;
        let encrypted = url.scheme_str() == Some("https");
        let here = is_loopback(&target.name);
        if !encrypted && !here {
            return Err(Fault::Refused(format!(
                "{authority} is to be asked without encryption; that is possible on this device itself only"
            )));
        }
        let port = if target.port == 0 { if encrypted { 443 } else { 80 } } else { target.port };
        let target = Host { port, ..target };
        let tcp = dial(&target, self.proxy.as_ref().filter(|_| !here)).await.map_err(Fault::Away)?;
        if !encrypted {
            return Ok(Box::new(tcp));
        }
        let tls = within(self.patience, self.tls.connect(&target.name, tcp)).await;
        let tls = tls.ok_or_else(|| silent(authority, self.patience))?;
        // Also a certificate may be better tomorrow, or where the network is another.
        Ok(Box::new(tls.map_err(Fault::Away)?))
    }
}

fn request(url: &Uri, question: Question<'_>) -> Result<hyper::Request<Full<Bytes>>, Fault> {
    let bad = |e: String| Fault::Refused(format!("{} can't be asked: {e}", shown(url)));
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let mut request = hyper::Request::builder().method("GET").uri(target);
    request = request.header(HOST, url.authority().map_or("", |a| a.as_str()));
    request = request.header(USER_AGENT, concat!("skerry/", env!("CARGO_PKG_VERSION")));
    if let Some(accept) = question.accept {
        request = request.header(hyper::header::ACCEPT, accept);
    }
    if let Some(authorization) = question.authorization {
        let mut value = HeaderValue::from_str(authorization).map_err(|e| bad(e.to_string()))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    if question.from > 0 {
        request = request.header(RANGE, format!("bytes={}-", question.from));
    }
    request.body(Full::default()).map_err(|e| bad(e.to_string()))
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Every value of a header that may come several times.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
    }

    /// The first byte that it has: that which was asked for, or 0 where the server does not do parts.
    pub fn begins_at(&self) -> u64 {
        let range = self.header("content-range").filter(|_| self.status == 206);
        let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        first.unwrap_or(0)
    }

    /// Bytes that are to come, where that is said.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// How long to wait before asking again, in seconds or as a date.
    fn retry_after(&self) -> Option<Duration> {
        let text = self.header(RETRY_AFTER.as_str())?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let ms = http_date(text.as_bytes())?.0.saturating_sub(clock::wall().0);
        Some(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
    }

    /// The next bytes; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let frame = carry(&mut self.connection, self.body.frame());
            match within(self.patience, frame).await.ok_or_else(|| silent(&self.host, self.patience))? {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                    // Trailers, or nothing.
                    _ => continue,
                },
                Some(Err(error)) => {
                    return Err(Fault::Away(format!(
                        "{} broke off its answer ({error}); trying again later",
                        self.host
                    )));
                }
            }
        }
    }

    /// All of it, up to a limit in bytes.
    pub async fn whole(&mut self, bytes_max: usize) -> Result<Vec<u8>, Fault> {
        let mut all = Vec::new();
        while let Some(bytes) = self.chunk().await? {
            if all.len() + bytes.len() > bytes_max {
                return Err(Fault::Refused(format!("{} answers with more than {bytes_max} bytes", self.host)));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// What a status other than success means, for `what` was asked for.
    pub fn fault(&self, what: &str) -> Fault {
        let host = &self.host;
        match self.status {
            401 | 403 => Fault::Refused(format!(
                "{host} refuses {what} with {}: give it credentials that may read it, in [images.registries] or in the manifest's \
                 registryCredentials",
                self.status
            )),
            404 | 410 => Fault::Refused(format!("{host} has no {what} ({}); check the reference", self.status)),
            429 | 503 => {
                let wait = self
                    .retry_after()
                    .map_or(String::new(), |w| format!(", and wants to be left alone for {} s", w.as_secs()));
                Fault::Away(format!("{host} is busy ({}){wait}; trying {what} again later", self.status))
            }
            500..=599 => Fault::Away(format!("{host} failed at {what} ({}); trying again later", self.status)),
            other => Fault::Refused(format!("{host} answers {other} when asked for {what}")),
        }
    }
}

/// Polls the connection too while `work` goes on; without that no byte moves.
async fn carry<T>(connection: &mut Connection, work: impl Future<Output = T>) -> T {
    let carried = std::future::poll_fn(move |cx| {
        connection.over = connection.over || connection.work.as_mut().poll(cx).is_ready();
        std::task::Poll::Pending
    });
    smol::future::or(work, carried).await
}

fn silent(place: &str, patience: Duration) -> Fault {
    Fault::Away(format!("{place} says nothing for {} s; trying again later", patience.as_secs_f32()))
}

/// Without what may be secret in the query.
fn shown(url: &Uri) -> String {
    url.authority().map_or_else(|| url.to_string(), |authority| authority.to_string())
}

/// Where a `Location` leads to from `base`.
fn resolve(base: &Uri, to: &str) -> Option<Uri> {
    if to.contains("://") {
        let url: Uri = to.parse().ok()?;
        // From encrypted to unencrypted is a trap.
        return (base.scheme_str() != Some("https") || url.scheme_str() == Some("https")).then_some(url);
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if let Some(elsewhere) = to.strip_prefix("//") {
        return format!("{scheme}://{elsewhere}").parse().ok();
    }
    if to.starts_with('/') {
        return format!("{scheme}://{authority}{to}").parse().ok();
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{scheme}://{authority}{folder}/{to}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_lead_where_they_say() {
        for (base, to, expected) in [
            ("https://a/v2/x", "https://b/y?z=1", "https://b/y?z=1"),
            ("https://a/v2/x", "/y", "https://a/y"),
            ("https://a:5000/v2/x", "y", "https://a:5000/v2/y"),
            ("https://a/v2/x", "//b/y", "https://b/y"),
            ("http://localhost/x", "http://localhost:1/y", "http://localhost:1/y"),
            ("https://a/x", "http://a/x", "nowhere"),
        ] {
            let found = resolve(&base.parse().unwrap(), to).map_or("nowhere".to_owned(), |url| url.to_string());
            assert_eq!(found, expected, "{base} {to}");
        }
    }
}
