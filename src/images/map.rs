//! The map file: what images are, by their names.
//!
//! ```yaml
//! images:
//!   myapp:dev: ./target/debug/myapp        # a program of this machine
//!   nginx:
//!     rootfs: ./nginx-root                 # from debootstrap or `docker export`
//!     entrypoint: [/docker-entrypoint.sh]
//!     cmd: [nginx, -g, daemon off;]
//!     env: {LANG: C.UTF-8}
//!     workingDir: /srv
//!     user: www-data
//! ```
//!
//! A name without registry or tag stands for all of them; of two that fit, the one that says more counts. Relative paths
//! start at the file's folder. Without `rootfs` the container sees the host's file system.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use super::Image;
use super::reference::Reference;

/// Why a map file is refused.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("image map {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("image map {}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("image map {}, line {line}, entry {entry:?}: {message}", path.display())]
    Entry { path: PathBuf, line: u64, entry: String, message: String },
}

/// What an image is, as its configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappedImage {
    /// As the file has it.
    pub name: String,
    /// The folder with its file system; none for the host's.
    pub rootfs: Option<PathBuf>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub working_dir: Option<PathBuf>,
    /// A name or number, with or without a group.
    pub user: Option<String>,
}

/// The entries of a map file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageMap {
    entries: Vec<(Reference, Arc<MappedImage>)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    images: BTreeMap<String, Spanned<Entry>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Fields {
    rootfs: Option<PathBuf>,
    #[serde(default)]
    entrypoint: Words,
    #[serde(default)]
    cmd: Words,
    #[serde(default)]
    env: BTreeMap<String, String>,
    working_dir: Option<PathBuf>,
    user: Option<String>,
}

/// All fields, or the program alone.
struct Entry(Fields);

/// A list of words, or one word.
#[derive(Default)]
struct Words(Vec<String>);

impl ImageMap {
    /// Reads a file.
    ///
    /// # Errors
    /// A [`MapError`] that names the line or the entry.
    pub fn read(path: &Path) -> Result<Self, MapError> {
        let failed = |source| MapError::Read { path: path.to_owned(), source };
        let text = fs::read_to_string(path).map_err(failed)?;
        let folder = std::path::absolute(path).map_err(failed)?.parent().map(Path::to_owned).unwrap_or_default();
        Self::parse(&text, path, &folder)
    }

    fn parse(text: &str, path: &Path, folder: &Path) -> Result<Self, MapError> {
        let syntax = |message| MapError::Syntax { path: path.to_owned(), message };
        let file: Option<File> = serde_saphyr::from_str(text).map_err(|e| syntax(e.to_string()))?;
        let mut map = Self::default();
        for (name, entry) in file.map(|file| file.images).unwrap_or_default() {
            let line = entry.referenced.line();
            let refuse =
                |message: String| Err(MapError::Entry { path: path.to_owned(), line, entry: name.clone(), message });
            let reference = match Reference::parse(&name) {
                Ok(reference) => reference,
                Err(message) => return refuse(message.to_owned()),
            };
            if Image::built_in(&name).is_some() {
                return refuse("this image is built in: choose another name".to_owned());
            }
            if let Some((_, other)) = map.entries.iter().find(|(known, _)| *known == reference) {
                return refuse(format!("names the same image as {:?}", other.name));
            }
            match resolve(name.clone(), entry.value.0, folder) {
                Ok(image) => map.entries.push((reference, Arc::new(image))),
                Err(message) => return refuse(message),
            }
        }
        Ok(map)
    }

    /// The image that a Pod's reference means.
    pub fn find(&self, reference: &str) -> Option<Arc<MappedImage>> {
        let wanted = Reference::parse(reference).ok()?;
        let fitting = self.entries.iter().filter(|(name, _)| name.matches(&wanted));
        fitting.max_by_key(|(name, _)| name.weight()).map(|(_, image)| Arc::clone(image))
    }

    /// All images, by name.
    pub fn images(&self) -> impl Iterator<Item = &MappedImage> {
        self.entries.iter().map(|(_, image)| &**image)
    }
}

fn resolve(name: String, fields: Fields, folder: &Path) -> Result<MappedImage, String> {
    let rootfs = fields.rootfs.map(|path| folder.join(path));
    if rootfs.as_ref().is_some_and(|path| path.exists() && !path.is_dir()) {
        return Err("rootfs is a file: unpack it into a folder".to_owned());
    }
    let mut entrypoint = fields.entrypoint.0;
    let on_host = rootfs.is_none();
    if let Some(program) = entrypoint.first_mut().filter(|program| on_host && program.contains('/')) {
        *program = folder.join(&*program).components().collect::<PathBuf>().display().to_string();
    }
    if let Some(bad) = fields.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(format!("{bad:?} is no name of a variable"));
    }
    let working_dir = match fields.working_dir {
        Some(path) if on_host => Some(folder.join(path)),
        Some(path) if path.is_relative() => return Err("workingDir must be absolute with a rootfs".to_owned()),
        path => path,
    };
    Ok(MappedImage { name, rootfs, entrypoint, cmd: fields.cmd.0, env: fields.env, working_dir, user: fields.user })
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Entry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a program, or rootfs, entrypoint, cmd, env, workingDir and user")
            }
            fn visit_str<E>(self, program: &str) -> Result<Entry, E> {
                Ok(Entry(Fields { entrypoint: Words(vec![program.to_owned()]), ..Fields::default() }))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
                Fields::deserialize(MapAccessDeserializer::new(map)).map(Entry)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Words;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of words")
            }
            fn visit_str<E>(self, word: &str) -> Result<Words, E> {
                Ok(Words(vec![word.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                Ok(Words(words))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ImageMap, String> {
        ImageMap::parse(text, Path::new("images.yaml"), Path::new("/work")).map_err(|e| e.to_string())
    }

    #[test]
    fn entries_are_programs_or_whole_images() {
        let map = parse(
            "images:\n  myapp:dev: ./target/debug/myapp\n  redis:\n    entrypoint: [redis-server]\n  nginx:\n    \
             rootfs: roots/nginx\n    entrypoint: [/entry.sh]\n    cmd: [nginx, -g, daemon off;]\n    env: {A: b}\n    \
             workingDir: /srv\n    user: www-data\n  nginx:1.27: /usr/sbin/nginx\n",
        )
        .unwrap();
        assert_eq!(map.find("docker.io/library/myapp:dev").unwrap().entrypoint, ["/work/target/debug/myapp"]);
        assert_eq!(map.find("redis:7").unwrap().entrypoint, ["redis-server"]);
        let nginx = map.find("nginx").unwrap();
        assert_eq!(nginx.rootfs.as_deref(), Some(Path::new("/work/roots/nginx")));
        assert_eq!((nginx.cmd.len(), nginx.env["A"].as_str(), nginx.user.as_deref()), (3, "b", Some("www-data")));
        assert_eq!(nginx.entrypoint, ["/entry.sh"]);
        assert_eq!(map.find("nginx:1.27").unwrap().entrypoint, ["/usr/sbin/nginx"]);
        assert!(map.find("myapp:prod").is_none() && map.find("postgres").is_none());
        assert_eq!(parse("").unwrap(), ImageMap::default());
        assert_eq!(parse("images: {}\n").unwrap(), ImageMap::default());
    }

    #[test]
    fn errors_name_the_line_or_the_entry() {
        for (text, parts) in [
            ("images:\n  a: {rotfs: x}\n", ["line 2", "rotfs"]),
            ("images:\n  a:\n    cmd: {x: y}\n", ["line 3", "a list of words"]),
            ("pictures: {}\n", ["line 1", "pictures"]),
            ("images:\n  b: x\n  MyApp: z\n", ["line 3, entry \"MyApp\"", "lower-case"]),
            ("images:\n  vipyard/pause:1: x\n", ["entry \"vipyard/pause:1\"", "built in"]),
            ("images:\n  library/a: x\n  a: z\n", ["entry \"library/a\"", "names the same image as \"a\""]),
            ("images:\n  a: {rootfs: x, workingDir: y}\n", ["entry \"a\"", "workingDir must be absolute"]),
            ("images:\n  a: {env: {\"x=y\": z}}\n", ["entry \"a\"", "\"x=y\" is no name"]),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("image map images.yaml"), "{error}");
            assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} in {error}");
        }
    }
}
