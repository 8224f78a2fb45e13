//! Reads one link: messages and completions go to the hub in one turn a read, the rest to whom it concerns.
//! The wall against a module that lies: everything here is checked before it is believed.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use smol::Async;
use smol::io::AsyncBufReadExt;
use smol::stream::StreamExt;

use super::board::Slot;
use super::tally::Of;
use super::world::World;
use super::{methods, taps};
use crate::logic::hub::{Hub, LinkIx, Sent};
use crate::logic::log_ring::LogLine;
use crate::logic::{sas, scope};
use crate::model::time::{Now, Wall};
use skerry_abi::wire::frame::{self, FRAME_BYTES_MAX, FailureKind, FromHost, LINK_VERSION, ToHost};

/// Read at once, bytes. A full window of deliveries' answers fits several times.
pub const SCRATCH_BYTES: usize = 256 * 1024;
/// Longest line of captured output; longer ones are cut into several.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// What an instance's own task needs to know.
pub enum Said {
    Hello {
        isolation: String,
    },
    Started,
    Failed {
        kind: FailureKind,
        text: String,
    },
    Panicked {
        text: String,
    },
    Pong,
    /// Empty: it is well.
    Health {
        text: String,
    },
    Stopped,
}

/// Until the link ends. `Some` is the sentence about what was wrong with its bytes.
pub async fn run(
    world: &Rc<World>,
    slot: &Rc<Slot>,
    link: LinkIx,
    stream: &Async<UnixStream>,
    say: impl AsyncFn(Said),
) -> Option<String> {
    let mut left = Vec::new();
    let mut hello = false;
    loop {
        let (batch, fault) = match read_batch(world, slot, link, stream, &mut left, &mut hello) {
            Ok(Some(batch)) => batch,
            Ok(None) => return None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stream.readable().await.is_err() {
                    return None;
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        taps::hand_out(world);
        for owned in batch {
            if let Some(said) = act(world, slot, link, owned) {
                say(said).await;
            }
        }
        if let Some(fault) = fault {
            slot.refuse_scope(&fault);
            return Some(fault);
        }
        smol::future::yield_now().await;
    }
}

/// Frames that are not the hub's, with their bytes.
type Batch = (Vec<Owned>, Option<String>);

/// One read and one turn of the hub. `Ok(None)`: the other side is gone.
fn read_batch(
    world: &World,
    slot: &Slot,
    link: LinkIx,
    stream: &Async<UnixStream>,
    left: &mut Vec<u8>,
    hello: &mut bool,
) -> io::Result<Option<Batch>> {
    let mut scratch = world.scratch.borrow_mut();
    let have = left.len();
    // A frame longer than the scratch grows it for as long as it takes.
    let room = (have + SCRATCH_BYTES).max(SCRATCH_BYTES);
    if scratch.len() < room {
        scratch.resize(room, 0);
    }
    let count = stream.get_ref().read(&mut scratch[have..room])?;
    if count == 0 {
        return Ok(None);
    }
    scratch[..have].copy_from_slice(left);
    let bytes = &scratch[..have + count];
    let mut rest = bytes;
    let mut others = Vec::new();
    let fault = world.port.turn(|hub, now| take_frames(hub, now, (slot, link), &mut rest, hello, &mut others));
    left.clear();
    left.extend_from_slice(rest);
    if left.is_empty() && left.capacity() > SCRATCH_BYTES {
        *left = Vec::new();
    }
    if scratch.len() > 4 * SCRATCH_BYTES {
        *scratch = vec![0; SCRATCH_BYTES];
    }
    let fault = fault.or((left.len() > FRAME_BYTES_MAX + 4).then(|| "a frame without end".to_owned()));
    Ok(Some((others, fault)))
}

fn take_frames(
    hub: &mut Hub,
    now: Now,
    (slot, link): (&Slot, LinkIx),
    rest: &mut &[u8],
    hello: &mut bool,
    others: &mut Vec<Owned>,
) -> Option<String> {
    loop {
        let bytes = match frame::split(rest) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return None,
            Err(error) => return Some(error.to_string()),
        };
        let decoded = match FromHost::decode(bytes) {
            Ok(decoded) => decoded,
            Err(error) => return Some(error.to_string()),
        };
        if !*hello {
            match decoded {
                FromHost::Hello { link_version: LINK_VERSION, .. } | FromHost::Failed { .. } => {}
                FromHost::Hello { link_version, .. } => {
                    return Some(format!("its link speaks version {link_version}, this runtime {LINK_VERSION}"));
                }
                _ => return Some("it spoke before its hello".to_owned()),
            }
        }
        let result = match decoded {
            FromHost::Publish { ticket, output, now: at_once, parents, record } => {
                if usize::from(output) >= slot.image.borrow().outputs.len() {
                    slot.refuse_scope(&format!("a message to output {output}, which it does not declare"));
                }
                hub.publish(now, link, Sent { ticket, output, at_once, parents, record })
            }
            FromHost::Complete { first, count, completion, reason } => {
                hub.complete(now, link, first, count, completion, reason)
            }
            other => {
                *hello |= matches!(other, FromHost::Hello { .. });
                others.push(Owned::from(other));
                Ok(())
            }
        };
        if let Err(fault) = result {
            return Some(fault.to_string());
        }
    }
}

/// Frames that outlive the buffer they were read into.
enum Owned {
    Said(Said),
    Report { rid: u64, patch: String },
    MethodAnswer { rid: u64, status: i32, payload: Vec<u8> },
    Sign { rid: u64, bytes: Vec<u8> },
    Call(methods::Call),
    Log { level: u8, at: Wall, target: String, text: String },
}

impl From<FromHost<'_>> for Owned {
    fn from(frame: FromHost<'_>) -> Owned {
        match frame {
            FromHost::Hello { isolation, .. } => Owned::Said(Said::Hello { isolation: isolation.to_owned() }),
            FromHost::Started => Owned::Said(Said::Started),
            FromHost::Failed { kind, text } => Owned::Said(Said::Failed { kind, text: text.to_owned() }),
            FromHost::Panicked { text, .. } => Owned::Said(Said::Panicked { text: text.to_owned() }),
            FromHost::Pong { .. } => Owned::Said(Said::Pong),
            FromHost::Health { text } => Owned::Said(Said::Health { text: text.to_owned() }),
            FromHost::Stopped => Owned::Said(Said::Stopped),
            FromHost::Report { rid, patch } => Owned::Report { rid, patch: patch.to_owned() },
            FromHost::MethodAnswer { rid, status, payload } => {
                Owned::MethodAnswer { rid, status, payload: payload.to_vec() }
            }
            FromHost::Sign { rid, data } => Owned::Sign { rid, bytes: data.to_vec() },
            FromHost::Call { rid, module, name, payload, connect_ms, response_ms } => Owned::Call(methods::Call {
                rid,
                module: module.to_owned(),
                name: name.to_owned(),
                payload: payload.to_vec(),
                connect_ms,
                response_ms,
            }),
            FromHost::Log { level, time_ms, target, text } => {
                Owned::Log { level, at: Wall(time_ms), target: target.to_owned(), text: text.to_owned() }
            }
            FromHost::Publish { .. } | FromHost::Complete { .. } => unreachable!("the hub took it"),
        }
    }
}

fn act(world: &Rc<World>, slot: &Rc<Slot>, link: LinkIx, owned: Owned) -> Option<Said> {
    match owned {
        Owned::Said(said) => return Some(said),
        Owned::Report { rid, patch } => report(world, slot, link, rid, &patch),
        Owned::MethodAnswer { rid, status, payload } => {
            let open = slot.methods.borrow_mut().remove(&rid);
            match open {
                Some(answer) => drop(answer.try_send((status, payload))),
                None if rid == 0 || rid > slot.last_call.get() => {
                    slot.refuse_scope(&format!("an answer to method call {rid}, which was never made to it"));
                }
                // Too late.
                None => {}
            }
        }
        Owned::Sign { rid, bytes } => match sign(world, slot, &bytes) {
            Ok(digest) => world.port.send(link, &ToHost::Signed { rid, digest: &digest, error: "" }),
            Err(error) => world.port.send(link, &ToHost::Signed { rid, digest: &[], error: &error }),
        },
        Owned::Call(call) => methods::call_for(world, slot, link, call),
        Owned::Log { level, at, target, text } => {
            if level <= 2 {
                log::warn!("instance={}/{} target={target} says={text:?}", slot.name, slot.generation.get());
            }
            slot.log(LogLine { at, level, stream: target, text });
        }
    }
    None
}

/// Under its own key, and no token for anybody else.
fn sign(world: &World, slot: &Slot, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let identity = world.board.uplinks.borrow().get(&slot.name).map(|uplink| uplink.identity.clone());
    let device = identity.as_deref().and_then(|id| id.split_once('/')).map_or(&*world.config.device_id, |(d, _)| d);
    if let Some(audience) = scope::foreign_audience(bytes, device, &slot.name) {
        slot.refuse_scope(&format!("a token for {audience:?}"));
        return Err(format!("{} may sign tokens for itself only, and this one is for {audience:?}", slot.name));
    }
    // The key by which the cloud knows it: one that somebody else gave out, or the one that was made here.
    match world.config.cloud.modules.get(&slot.name) {
        Some(identity) => Ok(sas::sign(&identity.key, bytes)),
        None => world.keys.sign(&slot.name, bytes).map_err(|error| error.to_string()),
    }
}

/// A module reports into its own twin; there is no frame that names another.
fn report(world: &World, slot: &Slot, link: LinkIx, rid: u64, patch: &str) {
    let (status, version, reason) = {
        let mut twins = world.board.twins.borrow_mut();
        let twin = twins.entry(slot.name.clone()).or_default();
        let result = serde_json::from_str(patch)
            .map_err(|e| format!("not JSON: {e}"))
            .and_then(|patch| twin.apply_reported(&patch).map_err(|e| e.to_string()));
        match result {
            Ok(version) => (204, version, String::new()),
            Err(reason) => (400, twin.reported_version(), reason),
        }
    };
    world.board.tally.count(Of::Reported, &["edge_hub", &world.named(&slot.name)]);
    if status == 204 {
        world.reported_changed(&slot.name);
    } else {
        log::warn!("instance={}/{} report=refused reason={reason:?}", slot.name, slot.generation.get());
    }
    world.port.send(link, &ToHost::Reported { rid, status, version, reason: &reason });
}

/// Captured output, line by line, as the module's log.
pub async fn capture(world: Rc<World>, slot: Rc<Slot>, name: &'static str, pipe: impl smol::io::AsyncRead + Unpin) {
    let mut lines = smol::io::BufReader::new(pipe).split(b'\n');
    while let Some(Ok(line)) = lines.next().await {
        for piece in line.chunks(LINE_BYTES_MAX) {
            let text = String::from_utf8_lossy(piece).trim_end_matches('\r').to_owned();
            slot.log(LogLine { at: world.port.now().wall, level: 0, stream: name.to_owned(), text });
        }
    }
}
