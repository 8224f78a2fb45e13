//! Tells when something in the drop-in folders changed. Only that: what a folder holds is read anew each time, so that
//! no event that the kernel drops can be missed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify;
use smol::Async;

pub struct Watch {
    fd: Async<OwnedFd>,
}

impl Watch {
    /// Folders that do not exist are watched through their nearest parent that does.
    pub fn new<'a>(folders: impl IntoIterator<Item = &'a Path>) -> io::Result<Watch> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        for folder in folders {
            let existing = folder.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/"));
            inotify::add_watch(&fd, existing, events())?;
        }
        Ok(Watch { fd: Async::new(fd)? })
    }

    /// Waits for a change, and takes all that are there.
    pub async fn changed(&self) -> io::Result<()> {
        self.fd.readable().await?;
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A file counts when its writer closed it or it was moved in: not while it is being copied.
fn events() -> inotify::WatchFlags {
    use inotify::WatchFlags as W;
    W::CLOSE_WRITE | W::MOVED_TO | W::MOVED_FROM | W::DELETE | W::CREATE | W::DELETE_SELF | W::MOVE_SELF
}
