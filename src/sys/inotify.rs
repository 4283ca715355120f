//! Being told when a file changes.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Follows one file, also when another is put in its place, as editors do.
#[derive(Debug)]
pub struct FileWatch {
    inotify: AsyncFd<OwnedFd>,
    file: PathBuf,
}

impl FileWatch {
    /// To be called inside a tokio runtime. The file's folder must exist, and the file need not.
    ///
    /// # Errors
    /// The kernel's; `StorageFull` at its limit of watches.
    pub fn new(file: &Path) -> io::Result<Self> {
        let file = std::path::absolute(file)?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, folder, WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE)?;
        // SAFETY: the descriptor is owned by the `AsyncFd` and stays open, under the same number, as long as that lives.
        let inotify = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self { inotify: inotify.map_err(io::Error::from)?, file })
    }

    /// Waits until the file has changed. Cancel-safe.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            if self.drain()? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// Takes in all that is told, and says whether it was about the file.
    fn drain(&self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        let mut ours = false;
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes());
                    ours |= name == self.file.file_name().map(|name| name.as_encoded_bytes());
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(ours),
                Err(e) => return Err(e.into()),
            }
        }
    }
}
