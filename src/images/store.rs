//! The images that there are now: the map file, read again whenever it changes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use super::map::{ImageMap, MapError};
use super::{BUILT_IN, Image};
use crate::sys::inotify::FileWatch;

/// Finds images by name. Clones share the map.
#[derive(Clone, Debug)]
pub struct Images {
    map: watch::Sender<Arc<ImageMap>>,
    file: Option<PathBuf>,
}

impl Default for Images {
    fn default() -> Self {
        Self { map: watch::Sender::new(Arc::default()), file: None }
    }
}

impl Images {
    /// Reads the map file; without one there are the built-in images alone.
    ///
    /// # Errors
    /// A [`MapError`].
    pub fn open(file: Option<PathBuf>) -> Result<Self, MapError> {
        let map = file.as_deref().map(ImageMap::read).transpose()?.unwrap_or_default();
        Ok(Self { map: watch::Sender::new(Arc::new(map)), file })
    }

    pub fn find(&self, reference: &str) -> Option<Image> {
        Image::built_in(reference).or_else(|| self.map.borrow().find(reference).map(Image::Mapped))
    }

    /// What to do for an image that is not found.
    pub fn advice(&self) -> String {
        let [(whoami, _), (pause, _), (host, _)] = BUILT_IN;
        let map = match &self.file {
            Some(file) => format!("give it an entry in {}", file.display()),
            None => "start vipyard with --images FILE and give it an entry there".to_owned(),
        };
        format!("vipyard pulls no images: {map}, or use {whoami}, {pause}, or {host} with a command of this machine")
    }

    /// Tells of each new map.
    pub fn changes(&self) -> watch::Receiver<Arc<ImageMap>> {
        self.map.subscribe()
    }

    /// Reads the file again whenever it changes; one that is wrong changes nothing. Returns only when it can't be watched.
    pub async fn follow(self) {
        let Some(file) = &self.file else { return };
        if let Err(error) = self.watch(file).await {
            warn!(file = %file.display(), %error, "image map is not followed: changes take a restart");
        }
    }

    async fn watch(&self, file: &Path) -> io::Result<()> {
        let watch = FileWatch::new(file)?;
        // What changed between the first reading and now.
        self.read_again(file);
        loop {
            watch.changed().await?;
            self.read_again(file);
        }
    }

    fn read_again(&self, file: &Path) {
        match ImageMap::read(file) {
            Ok(map) => {
                let changed = self.map.send_if_modified(|present| {
                    let differs = **present != map;
                    *present = Arc::new(map);
                    differs
                });
                if changed {
                    info!(file = %file.display(), "image map read again");
                }
            }
            Err(error) => warn!(%error, "image map keeps what it was"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn file_is_read_again_when_it_changes_and_kept_when_it_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("images.yaml");
        std::fs::write(&file, "images: {a: /bin/a}\n").unwrap();
        let images = Images::open(Some(file.clone())).unwrap();
        let mut changes = images.changes();
        let follow = tokio::spawn(images.clone().follow());
        assert!(images.find("a").is_some() && images.find("b").is_none());
        // In place, and as editors do.
        std::fs::write(&file, "images: {b: /bin/b}\n").unwrap();
        changes.wait_for(|map| map.find("b").is_some()).await.unwrap();
        std::fs::write(folder.path().join("new"), "images: [").unwrap();
        std::fs::rename(folder.path().join("new"), &file).unwrap();
        std::fs::write(folder.path().join("new"), "images: {b: /bin/b, c: /bin/c}\n").unwrap();
        std::fs::rename(folder.path().join("new"), &file).unwrap();
        changes.wait_for(|map| map.find("c").is_some()).await.unwrap();
        assert!(images.find("b").is_some(), "a file that is wrong takes nothing away");
        follow.abort();
    }
}
