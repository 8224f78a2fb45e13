//! A client that says exactly what a test wants it to say. Blocking, and without any session of its own.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_rustls::rustls::pki_types::pem::PemObject;
use futures_rustls::rustls::pki_types::{CertificateDer, ServerName};
use futures_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};
use mqtt_proto::v3::{Connect, Packet, Publish, Subscribe};
use mqtt_proto::{Pid, QoS, QosPid, TopicFilter, TopicName};
use serde_json::Value;
use skerry_cloud::{Cloud, sas};

/// For everything that is read.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    web_socket: bool,
    /// Behind the frames.
    packets: Vec<u8>,
    raw: Vec<u8>,
}

/// Of the policy; `resource` is often the host itself.
pub fn policy_token(cloud: &Cloud, resource: &str, life_s: i64) -> String {
    let known = &cloud.ready().policy_connection_string;
    let key = known.split(";SharedAccessKey=").nth(1).expect("a key");
    sas::sign(resource, key, now_s().saturating_add_signed(life_s)).expect("a token") + "&skn=iothubowner"
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Of this identity, for so many seconds from now.
pub fn token(cloud: &Cloud, identity: &str, life_s: i64) -> String {
    let known = cloud.identity(identity).expect("an identity");
    let key = known.connection_string.split(";SharedAccessKey=").nth(1).expect("a key").to_owned();
    let module = identity.split_once('/').map(|(_, module)| format!("/modules/{module}")).unwrap_or_default();
    let device = identity.split('/').next().unwrap_or_default();
    let resource = format!("{}/devices/{device}{module}", cloud.ready().host_name);
    sas::sign(&resource, &key, now_s().saturating_add_signed(life_s)).expect("a token")
}

pub fn connect_packet(cloud: &Cloud, identity: &str, password: &str) -> Connect {
    let mut connect = Connect::new(identity.into(), 60);
    connect.clean_session = false;
    let user = format!("{}/{identity}/?api-version=2021-04-12&DeviceClientType=test", cloud.ready().host_name);
    connect.username = Some(user.as_str().into());
    connect.password = Some(Bytes::copy_from_slice(password.as_bytes()));
    connect
}

impl Client {
    /// TLS only.
    pub fn dial(cloud: &Cloud) -> io::Result<Client> {
        Client::over(TcpStream::connect(cloud.ready().address)?, cloud)
    }

    pub fn over(tcp: TcpStream, cloud: &Cloud) -> io::Result<Client> {
        tcp.set_read_timeout(Some(DEADLINE))?;
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(&cloud.ready().ca_file).expect("the CA's certificate");
        roots.add(ca).expect("a good certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(cloud.ready().host_name.clone()).expect("a name");
        let tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(tls, tcp);
        stream.flush()?;
        Ok(Client { stream, web_socket: false, packets: Vec::new(), raw: Vec::new() })
    }

    /// Asks for the WebSocket; the head of the answer.
    pub fn upgrade(&mut self, target: &str, protocol: &str) -> io::Result<String> {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes())?;
        self.stream.flush()?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        self.web_socket = true;
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    /// One request; status, head and body of the answer.
    pub fn request(&mut self, head: &str, token: &str, body: &str) -> (u16, String, Value) {
        let length = body.len();
        let authorization = if token.is_empty() { String::new() } else { format!("Authorization: {token}\r\n") };
        self.send_raw(
            format!("{head} HTTP/1.1\r\nHost: hub\r\n{authorization}Content-Length: {length}\r\n\r\n{body}").as_bytes(),
        );
        self.response()
    }

    pub fn response(&mut self) -> (u16, String, Value) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let number = |text: &str| text.split_whitespace().next().and_then(|text| text.parse::<usize>().ok());
        let status = head.strip_prefix("HTTP/1.1 ").and_then(number).expect("a status");
        let length = head.split_once("Content-Length: ").and_then(|(_, rest)| number(rest)).expect("a length");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("a body");
        (u16::try_from(status).expect("a status"), head, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Up to and with the CONNACK, which is returned.
    pub fn connect(cloud: &Cloud, identity: &str) -> (Client, Packet) {
        let mut client = Client::dial(cloud).expect("TLS");
        let head = client.upgrade("/$iothub/websocket", "mqtt").expect("HTTP");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client.send(&connect_packet(cloud, identity, &token(cloud, identity, 3600)).into());
        let packet = client.read().expect("a CONNACK");
        (client, packet)
    }

    pub fn send(&mut self, packet: &Packet) {
        let bytes = packet.encode().expect("a packet");
        self.send_bytes(bytes.as_ref());
    }

    /// As one frame. A connection that ended shows at the next read.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let frame = if self.web_socket { masked(0x82, bytes) } else { bytes.to_vec() };
        self.send_raw(&frame);
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
    }

    pub fn set_deadline(&mut self, deadline: Duration) {
        self.stream.sock.set_read_timeout(Some(deadline)).expect("a timeout");
    }

    pub fn publish(&mut self, pid: u16, topic: &str, body: impl AsRef<[u8]>) {
        let topic = TopicName::try_from(topic).expect("a topic");
        let pid = if pid == 0 { QosPid::Level0 } else { QosPid::Level1(Pid::try_from(pid).expect("an id")) };
        self.send(&Publish::new(pid, topic, Bytes::copy_from_slice(body.as_ref())).into());
    }

    pub fn subscribe(&mut self, filter: &str, qos: QoS) -> Packet {
        let filter = TopicFilter::try_from(filter).expect("a filter");
        self.send(&Subscribe::new(Pid::default(), vec![(filter, qos)]).into());
        self.read().expect("a SUBACK")
    }

    /// The next packet.
    pub fn read(&mut self) -> io::Result<Packet> {
        loop {
            if let Ok(Some(packet)) = Packet::decode(&self.packets) {
                let length = packet.encode_len().map_err(io::Error::other)?;
                self.packets.drain(..length);
                return Ok(packet);
            }
            self.read_more()?;
        }
    }

    /// Body and topic of the next publish.
    pub fn read_publish(&mut self) -> (String, String) {
        match self.read().expect("a publish") {
            Packet::Publish(publish) => {
                (publish.topic_name.to_string(), String::from_utf8_lossy(&publish.payload).into_owned())
            }
            other => panic!("a publish was expected: {other:?}"),
        }
    }

    /// Reads until the connection ends.
    pub fn ended(&mut self) {
        loop {
            match self.read_more() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the connection did not end"),
                Err(_) => return,
            }
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let length = self.stream.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !self.web_socket {
            self.packets.extend_from_slice(&buffer[..length]);
            return Ok(());
        }
        self.raw.extend_from_slice(&buffer[..length]);
        while let Some((kind, payload, whole)) = frame(&self.raw) {
            if kind == 0x82 {
                self.packets.extend_from_slice(&self.raw[payload]);
            }
            self.raw.drain(..whole);
        }
        Ok(())
    }
}

/// First byte, where the payload lies, and the length of all.
fn frame(bytes: &[u8]) -> Option<(u8, std::ops::Range<usize>, usize)> {
    let (start, length) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        length => (2, usize::from(length)),
    };
    (bytes.len() >= start + length).then_some((bytes[0], start..start + length, start + length))
}

pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7u8, 1, 9, 200];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..65536 => {
            frame.push(0xFE);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0xFF);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
