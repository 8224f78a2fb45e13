//! A registry that answers as it is told, over plain HTTP on the loopback interface, and remembers what it was asked.
//! Must never be more of a registry than a test needs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub target: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut_after: Option<usize>,
    /// Nothing more is said after so many bytes.
    pub stall_after: Option<usize>,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into(), cut_after: None, stall_after: None }
    }

    pub fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The bytes that the request's range wants, as a good server sends them.
    pub fn ranged(body: &[u8], asked: &Asked) -> Reply {
        let from =
            asked.range.as_deref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        match from {
            Some(from) => Reply::new(206, &body[from..])
                .with("Content-Range", &format!("bytes {from}-{}/{}", body.len() - 1, body.len())),
            None => Reply::new(200, body),
        }
    }
}

pub struct Liar {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Liar {
    /// `answer` gets each request and how many came before it for the same target.
    pub fn start(answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its number").to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (book, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (book, answer) = (Arc::clone(&book), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &book, &*answer));
            }
        });
        Liar { address, asked }
    }

    pub fn asked(&self, target: &str) -> Vec<Asked> {
        let asked = self.asked.lock().expect("nobody panicked");
        asked.iter().filter(|a| a.target.contains(target)).cloned().collect()
    }
}

fn serve(stream: TcpStream, book: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked, usize) -> Reply) {
    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut line = || {
        let mut text = String::new();
        reader.read_line(&mut text).ok().filter(|count| *count > 0).map(|_| text.trim_end().to_owned())
    };
    let Some(target) = line().and_then(|first| first.split(' ').nth(1).map(str::to_owned)) else { return };
    let mut asked = Asked { target, authorization: None, range: None };
    while let Some(header) = line().filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(": ").unwrap_or((&header, ""));
        match name.to_ascii_lowercase().as_str() {
            "authorization" => asked.authorization = Some(value.to_owned()),
            "range" => asked.range = Some(value.to_owned()),
            _ => {}
        }
    }
    let before = {
        let mut book = book.lock().expect("nobody panicked");
        let before = book.iter().filter(|a| a.target == asked.target).count();
        book.push(asked.clone());
        before
    };
    let reply = answer(&asked, before);
    let mut head =
        format!("HTTP/1.1 {} x\r\nConnection: close\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
    reply.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    let mut stream = stream;
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    let end = reply.cut_after.or(reply.stall_after).unwrap_or(reply.body.len());
    let _ = stream.write_all(&reply.body[..end]);
    if reply.stall_after.is_some() {
        // Until the other side has had enough.
        let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
        let _ = stream.read(&mut [0]);
    }
}
