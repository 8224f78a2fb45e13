//! TCP to the cloud: one address after the other, IPv6 and IPv4 in turn, and through an HTTP proxy where one is set.
//! Must never wait for one address longer than its time, and never show a proxy's password.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use data_encoding::BASE64;
use smol::Async;
use smol::io::{AsyncReadExt, AsyncWriteExt};

use crate::model::config::{Host, Proxy};

/// Time for one address, and for the proxy's answer.
const ADDRESS_WAIT: Duration = Duration::from_secs(5);
/// Time for the look-up of a name: a resolver whose servers are silent tries them one by one, for half a minute.
const RESOLVE_WAIT: Duration = Duration::from_secs(15);
/// Addresses that are tried; a name has more only by mistake.
const ADDRESSES_MAX: usize = 8;
/// Longest answer of a proxy that is read, bytes.
const PROXY_ANSWER_MAX: usize = 8 * 1024;

/// A stream to `target`. The error is a sentence for the operator.
pub async fn dial(target: &Host, proxy: Option<&Proxy>) -> Result<Async<TcpStream>, String> {
    let Some(proxy) = proxy else { return tcp(target, "").await };
    let mut stream = tcp(&proxy.host, "the proxy ").await?;
    let asked = ask_proxy(&mut stream, target, proxy);
    within(ADDRESS_WAIT * 2, asked)
        .await
        .unwrap_or_else(|| Err(format!("the proxy {} does not answer", proxy.host)))?;
    Ok(stream)
}

async fn tcp(host: &Host, what: &str) -> Result<Async<TcpStream>, String> {
    let addresses = resolve(host).await.map_err(|e| {
        format!("the name {} can't be looked up ({e}); check the network and its name server", host.name)
    })?;
    let mut failures = Vec::new();
    for address in in_turn(addresses) {
        let failure = match within(ADDRESS_WAIT, Async::<TcpStream>::connect(address)).await {
            Some(Ok(stream)) => {
                // Acknowledgements are small and waited for.
                let _ = stream.get_ref().set_nodelay(true);
                return Ok(stream);
            }
            Some(Err(error)) => error.to_string(),
            None => format!("no answer within {} s", ADDRESS_WAIT.as_secs()),
        };
        failures.push(format!("{address}: {failure}"));
    }
    Err(format!("{what}{host} can't be reached ({}); check network and firewall", failures.join("; ")))
}

async fn resolve(host: &Host) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, host.port)]);
    }
    let late = || io::Error::other(format!("no answer within {} s", RESOLVE_WAIT.as_secs()));
    let found = smol::net::resolve((host.name.as_str(), host.port));
    let found = within(RESOLVE_WAIT, found).await.unwrap_or_else(|| Err(late()))?;
    if found.is_empty() { Err(io::Error::other("it has no address")) } else { Ok(found) }
}

/// IPv6 first, as the resolver's users expect, then one of each kind after the other: a kind that is broken costs one wait.
fn in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (six, four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let longest = six.len().max(four.len());
    let pairs = (0..longest).flat_map(|at| [six.get(at).copied(), four.get(at).copied()]);
    pairs.flatten().take(ADDRESSES_MAX).collect()
}

async fn ask_proxy(stream: &mut Async<TcpStream>, target: &Host, proxy: &Proxy) -> Result<(), String> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some((user, password)) = &proxy.user {
        let pair = [user.as_bytes(), b":", password.bytes()].concat();
        request.push_str(&format!("Proxy-Authorization: Basic {}\r\n", BASE64.encode(&pair)));
    }
    request.push_str("\r\n");
    let failed = |e: io::Error| format!("the proxy {} ended the connection ({e})", proxy.host);
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    // Byte by byte: what follows the head belongs to the cloud.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map_err(failed)?;
        head.push(byte[0]);
        if head.len() > PROXY_ANSWER_MAX {
            return Err(format!("the proxy {} answers with no end; is it an HTTP proxy?", proxy.host));
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    let parsed = answer.parse(&head).ok().and(answer.code);
    match parsed {
        Some(200..=299) => Ok(()),
        Some(407) => Err(format!(
            "the proxy {} wants a name and a password, or others; set proxy = \"http://USER:PASSWORD@HOST:PORT\" in [upstream]",
            proxy.host
        )),
        Some(code) => {
            Err(format!("the proxy {} refuses to connect to {target} with {code}; allow it there", proxy.host))
        }
        None => Err(format!("the proxy {} does not answer in HTTP; check proxy in [upstream]", proxy.host)),
    }
}

/// `None` when the time is over.
pub async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let done = async { Some(work.await) };
    let late = async {
        smol::Timer::after(time).await;
        None
    };
    smol::future::or(done, late).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A port whose queue of connections is full: the kernel answers no more of them, as a firewall that drops.
    fn silent() -> (std::net::TcpListener, Vec<Async<TcpStream>>, Host) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        smol::block_on(async {
            while let Some(Ok(stream)) = within(Duration::from_millis(300), Async::<TcpStream>::connect(address)).await
            {
                waiting.push(stream);
                assert!(waiting.len() < 100, "this test tests nothing");
            }
        });
        (listener, waiting, Host { name: "127.0.0.1".into(), port: address.port() })
    }

    #[test]
    fn an_address_that_swallows_everything_costs_five_seconds() {
        let (_listener, _waiting, host) = silent();
        let begin = Instant::now();
        let Err(why) = smol::block_on(dial(&host, None)) else { panic!("somebody answered") };
        let took = begin.elapsed();
        assert!(took >= ADDRESS_WAIT && took < ADDRESS_WAIT * 2, "{took:?}");
        assert!(why.contains("no answer within 5 s") && why.contains("check network and firewall"), "{why}");
        // The same where the way leads through it.
        let proxy = Proxy { host, user: None };
        let cloud = Host { name: "h.invalid".into(), port: 443 };
        let Err(why) = smol::block_on(dial(&cloud, Some(&proxy))) else { panic!("somebody answered") };
        assert!(why.starts_with("the proxy 127.0.0.1:") && why.contains("no answer within 5 s"), "{why}");
    }

    #[test]
    fn kinds_of_addresses_take_turns() {
        let all = ["10.0.0.1:1", "10.0.0.2:1", "[::1]:1", "10.0.0.3:1"].map(|a| a.parse().unwrap()).to_vec();
        let order: Vec<String> = in_turn(all).iter().map(SocketAddr::to_string).collect();
        assert_eq!(order, ["[::1]:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
    }
}
