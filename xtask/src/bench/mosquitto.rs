//! The peer: Mosquitto on loopback, QoS 1, with a configuration and a port of its own. Its limits are set so that they
//! do not bind: no persistence, no delay of small packets, as many messages in flight as the publisher has.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::mqtt::{Client, Packet};
use crate::{cargo, debian, interrupt};

pub const NAME: &str = "mosquitto QoS 1";
pub const SAVED: &str = "mosquitto QoS 1, saved at every change";

pub struct Mosquitto {
    child: Child,
    port: u16,
    _folder: TempDir,
    /// Where it saves, if it does.
    store: Option<TempDir>,
}

impl Mosquitto {
    pub fn start() -> Result<Mosquitto, String> {
        Mosquitto::start_with("persistence false\n")
    }

    /// With more behind its configuration.
    pub fn start_with(more: &str) -> Result<Mosquitto, String> {
        install()?;
        let fault = |e: std::io::Error| format!("can't start mosquitto: {e}");
        let folder = tempfile::tempdir().map_err(fault)?;
        // Free a moment ago; whoever takes it in between makes the start fail, and says so.
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).map_err(fault)?.port();
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n\
             max_inflight_messages 1000\nmax_queued_messages 0\nlog_type error\n{more}"
        );
        let file = folder.path().join("mosquitto.conf");
        fs::write(&file, config).map_err(fault)?;
        let mut command = Command::new(program());
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(fault)?;
        let mosquitto = Mosquitto { child, port, _folder: folder, store: None };
        let deadline = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            interrupt::check()?;
            if Instant::now() > deadline {
                return Err("mosquitto does not listen".to_owned());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(mosquitto)
    }

    /// At its strongest: the whole store is written anew at each change.
    pub fn start_synced() -> Result<Mosquitto, String> {
        let folder = cargo::target_folder();
        let place = tempfile::Builder::new().prefix("mosquitto-").tempdir_in(folder).map_err(|e| e.to_string())?;
        let more = format!(
            "persistence true\npersistence_location {}/\nautosave_on_changes true\nautosave_interval 1\nuser root\n",
            place.path().display()
        );
        let mut mosquitto = Mosquitto::start_with(&more)?;
        mosquitto.store = Some(place);
        Ok(mosquitto)
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Messages a second from a publisher with `window` unacknowledged ones to subscribers that acknowledge each.
    pub fn hop(&self, count: u64, bytes: usize, window: u64, subscribers: usize) -> Result<f64, String> {
        let mut all = Vec::new();
        for n in 0..subscribers {
            let mut subscriber = Client::connect(self.port, &format!("subscriber{n}"))?;
            subscriber.subscribe("hop")?;
            all.push(thread::spawn(move || receive(&mut subscriber, count)));
        }
        let begin = Instant::now();
        self.publish("hop", count, bytes, window)?;
        for receiving in all {
            receiving.join().map_err(|_| "a subscriber panicked")??;
        }
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    /// Messages a second for a subscriber that is away, with `window` unacknowledged ones.
    pub fn store(&self, count: u64, bytes: usize, window: u64) -> Result<f64, String> {
        drop(self.stays_subscribed()?);
        let begin = Instant::now();
        self.publish("kept", count, bytes, window)?;
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    /// Messages a second to a subscriber that comes back to what waits for it.
    pub fn drain(&self, count: u64, bytes: usize, window: u64) -> Result<f64, String> {
        self.store(count, bytes, window)?;
        let begin = Instant::now();
        let mut subscriber = Client::back(self.port, "away")?;
        receive(&mut subscriber, count)?;
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    fn stays_subscribed(&self) -> Result<Client, String> {
        let mut subscriber = Client::back(self.port, "away")?;
        subscriber.subscribe("kept")?;
        Ok(subscriber)
    }

    /// Until the broker has acknowledged them all, with at most `window` of them without it.
    pub fn publish(&self, topic: &str, count: u64, bytes: usize, window: u64) -> Result<(), String> {
        let mut publisher = Client::connect(self.port, "publisher")?;
        let body = vec![b'x'; bytes];
        let (mut sent, mut safe) = (0, 0);
        while safe < count {
            while sent < count && sent - safe < window {
                publisher.publish(topic, &body);
                sent += 1;
            }
            publisher.flush()?;
            let mut packet = Some(publisher.read()?);
            while let Some(got) = packet {
                safe += u64::from(matches!(got, Packet::Acknowledged(_)));
                packet = publisher.read_buffered();
            }
        }
        Ok(())
    }

    /// Microseconds of each trip there and back, one at a time, sorted.
    pub fn echo(&self, count: u64, bytes: usize) -> Result<Vec<f64>, String> {
        let mut echo = Client::connect(self.port, "echo")?;
        echo.subscribe("ping")?;
        let mut driver = Client::connect(self.port, "driver")?;
        driver.subscribe("pong")?;
        let body = vec![b'x'; bytes];
        let back = body.clone();
        let echoing = thread::spawn(move || -> Result<(), String> {
            let mut done = 0;
            while done < count {
                if let Packet::Publish { id, .. } = echo.read()? {
                    // What came in is acknowledged with what goes out, in one write.
                    echo.publish("pong", &back);
                    echo.acknowledge(id);
                    echo.flush()?;
                    done += 1;
                }
            }
            Ok(())
        });
        let mut trips = Vec::with_capacity(count as usize);
        while (trips.len() as u64) < count {
            let begin = Instant::now();
            driver.publish("ping", &body);
            driver.flush()?;
            let id = loop {
                if let Packet::Publish { id, .. } = driver.read()? {
                    break id;
                }
            };
            trips.push(begin.elapsed().as_nanos() as f64 / 1_000.0);
            driver.acknowledge(id);
        }
        driver.flush()?;
        echoing.join().map_err(|_| "the echo panicked")??;
        trips.sort_by(f64::total_cmp);
        Ok(trips)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn receive(subscriber: &mut Client, count: u64) -> Result<(), String> {
    let mut received = 0;
    while received < count {
        let mut packet = Some(subscriber.read()?);
        while let Some(got) = packet {
            if let Packet::Publish { id, .. } = got {
                subscriber.acknowledge(id);
                received += 1;
            }
            packet = subscriber.read_buffered();
        }
        subscriber.flush()?;
    }
    Ok(())
}

/// Debian keeps it where only root's path looks.
fn program() -> &'static str {
    const DEBIAN: &str = "/usr/sbin/mosquitto";
    if fs::exists(DEBIAN).unwrap_or(false) { DEBIAN } else { "mosquitto" }
}

fn install() -> Result<(), String> {
    let there = || Command::new(program()).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if there() {
        return Ok(());
    }
    debian::install(&["mosquitto"]);
    if there() { Ok(()) } else { Err("mosquitto is missing; install it with: apt-get install mosquitto".to_owned()) }
}
