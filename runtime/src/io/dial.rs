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
    let found = smol::net::resolve((host.name.as_str(), host.port)).await?;
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

    #[test]
    fn kinds_of_addresses_take_turns() {
        let all = ["10.0.0.1:1", "10.0.0.2:1", "[::1]:1", "10.0.0.3:1"].map(|a| a.parse().unwrap()).to_vec();
        let order: Vec<String> = in_turn(all).iter().map(SocketAddr::to_string).collect();
        assert_eq!(order, ["[::1]:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
    }
}
