//! The first words on a link, before any frame: what the module host is to open and how it confines itself, with the
//! image and the status page as file descriptors. The one owner of this format. Must never carry a secret.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// What a host is told. Runtime and host are of the same build or package, so there is no version; what is
/// missing takes its default all the same, for a host file that an update has not replaced yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Order {
    pub module: String,
    pub generation: u64,
    /// The module's own folder: its working folder, and all of the state folder that it may see.
    pub state_dir: PathBuf,
    /// What it may not see: the state folder and the folder of the control socket.
    pub hidden: Vec<PathBuf>,
    /// Beside `/tmp`, `/dev` and its own folder, where it may write.
    pub writable: Vec<PathBuf>,
    /// Instead of its own folder, and from there if it is relative; that one is made when missing.
    pub working_folder: Option<PathBuf>,
    pub limits: Limits,
    /// The most talkative level of the module's log that comes over the link: 1 error to 5 trace.
    pub log_level: u8,
    /// Stay before the image is opened until a debugger is attached.
    pub wait_debugger: bool,
    /// Die when the thread dies that started the host. Only of use when that thread lives as long as the runtime.
    pub death_signal: bool,
    /// The runtime's process id: when another is the parent already, the runtime died first.
    pub parent: i32,
    /// The user that the host was started as, when it has one of its own.
    pub uid: Option<u32>,
    /// Use Landlock where the kernel has it.
    pub landlock: bool,
}

/// `None`: as it is inherited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of private writable memory (`RLIMIT_DATA`).
    pub memory_bytes: Option<u64>,
    /// Open files.
    pub files: Option<u64>,
    /// Processes and threads. Counted per uid, so it is set only for a host with a uid of its own.
    pub processes: Option<u64>,
}

/// Sends the order with its two descriptors. Blocks at most as long as the socket's buffer is full, which it never
/// is on a new link.
pub fn send(link: &UnixStream, order: &Order, image: BorrowedFd<'_>, status: BorrowedFd<'_>) -> io::Result<()> {
    let text = serde_json::to_vec(order)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= ORDER_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("the order for the module host is too long"))?;
    let mut head = [MARK, 0, 0, 0, 0];
    head[1..].copy_from_slice(&length.to_le_bytes());
    let fds = [image, status];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(link, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL)?;
    if sent != head.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    (&mut &*link).write_all(&text)
}

/// What `send` sent: the order, the image and the status page.
pub fn receive(link: &UnixStream) -> io::Result<(Order, OwnedFd, OwnedFd)> {
    let rubbish = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no order on the link: {what}"));
    let mut head = [0; 5];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got =
        rustix::net::recvmsg(link.as_fd(), &mut [IoSliceMut::new(&mut head)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    (&mut &*link).read_exact(&mut head[got.bytes..])?;
    let [image, status]: [OwnedFd; 2] = fds.try_into().map_err(|_| rubbish("it needs two descriptors"))?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] != MARK || length > ORDER_BYTES_MAX {
        return Err(rubbish("wrong first bytes"));
    }
    let mut text = vec![0; length as usize];
    (&mut &*link).read_exact(&mut text)?;
    let order = serde_json::from_slice(&text).map_err(|error| rubbish(&error.to_string()))?;
    Ok((order, image, status))
}

/// First byte of a link.
const MARK: u8 = 0x5c;
/// Less than a socket buffer holds at its smallest, so that sending can't block.
const ORDER_BYTES_MAX: u32 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn order_and_descriptors_arrive() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let order = Order {
            module: "filter".into(),
            state_dir: "/s/m".into(),
            limits: Limits { files: Some(64), ..Limits::default() },
            ..Order::default()
        };
        let files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        files[1].set_len(77).unwrap();
        send(&ours, &order, files[0].as_fd(), files[1].as_fd()).unwrap();
        let (received, _, status) = receive(&theirs).unwrap();
        assert_eq!(received, order);
        assert_eq!(File::from(status).metadata().unwrap().len(), 77);
    }

    #[test]
    fn rubbish_is_no_order() {
        for bytes in [&b""[..], b"\x5c", b"hello world", b"\x5c\xff\xff\xff\xff"] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(bytes).unwrap();
            drop(ours);
            assert!(receive(&theirs).is_err(), "{bytes:?}");
        }
    }
}
