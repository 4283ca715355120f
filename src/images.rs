//! Images: programs inside this binary, the host's own file system, and what a map file gives names to.
//!
//! They let Pods run without a registry, a download or a container runtime.

mod map;
mod pause;
mod reference;
mod store;
mod whoami;

use std::process::ExitCode;
use std::sync::Arc;

pub use map::{ImageMap, MapError, MappedImage};
pub use store::Images;

/// The name of the hidden subcommand that runs a built-in program.
pub const SUBCOMMAND: &str = "image";

/// The built-in images, each with what it does.
pub const BUILT_IN: [(&str, &str); 3] = [
    ("vipyard/whoami", "tells over HTTP, TCP and UDP who answers whom"),
    ("vipyard/pause", "does nothing until it is told to end"),
    ("vipyard/host", "runs the container's command from the host's file system"),
];

/// An image that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// `vipyard/whoami`: tells over HTTP, TCP and UDP who answers whom.
    Whoami,
    /// `vipyard/pause`: does nothing until SIGTERM.
    Pause,
    /// `vipyard/host`: runs the container's command from the host's file system.
    Host,
    /// An entry of the map file.
    Mapped(Arc<MappedImage>),
}

impl Image {
    /// Finds the built-in image that a reference names, with any tag or digest and with or without `docker.io/` in front.
    pub fn built_in(reference: &str) -> Option<Self> {
        let name = reference.strip_prefix("docker.io/").unwrap_or(reference);
        let name = name.split(['@', ':']).next()?;
        match name {
            "vipyard/whoami" => Some(Self::Whoami),
            "vipyard/pause" => Some(Self::Pause),
            "vipyard/host" => Some(Self::Host),
            _ => None,
        }
    }

    /// The name of the program inside this binary, if the image is one.
    pub fn program(&self) -> Option<&'static str> {
        match self {
            Self::Whoami => Some("whoami"),
            Self::Pause => Some("pause"),
            Self::Host | Self::Mapped(_) => None,
        }
    }

    /// The entry of the map file, if the image is one.
    pub fn mapped(&self) -> Option<&MappedImage> {
        match self {
            Self::Mapped(image) => Some(image),
            _ => None,
        }
    }
}

/// Runs the built-in program `name`; exit code 64 for a name or an argument that it doesn't know.
pub fn main(name: &str, args: &[String]) -> ExitCode {
    match name {
        "whoami" => whoami::main(args),
        "pause" => pause::main(),
        _ => {
            eprintln!("no built-in image {name:?}: there are whoami and pause");
            ExitCode::from(64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_image_is_found_with_any_tag_and_registry_prefix() {
        for reference in
            ["vipyard/whoami", "vipyard/whoami:v1", "docker.io/vipyard/whoami:latest", "vipyard/whoami@sha256:0"]
        {
            assert_eq!(Image::built_in(reference), Some(Image::Whoami), "{reference}");
        }
        assert_eq!(Image::built_in("vipyard/pause:3"), Some(Image::Pause));
        assert_eq!(Image::built_in("vipyard/host"), Some(Image::Host));
        assert_eq!(Image::built_in("nginx"), None);
        assert_eq!(Image::built_in("quay.io/vipyard/whoami"), None);
        assert!(BUILT_IN.iter().all(|(name, _)| Image::built_in(name).is_some()));
    }
}
