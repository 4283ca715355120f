//! The built-in images: programs inside this binary, and the host's own file system.
//!
//! They let a Service be tried without a registry, a download or a container runtime.

mod pause;
mod whoami;

use std::process::ExitCode;

/// The name of the hidden subcommand that runs a built-in program.
pub const SUBCOMMAND: &str = "image";

/// An image that this version can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// `vipyard/whoami`: tells over HTTP, TCP and UDP who answers whom.
    Whoami,
    /// `vipyard/pause`: does nothing until SIGTERM.
    Pause,
    /// `vipyard/host`: runs the container's command from the host's file system.
    Host,
}

impl Image {
    /// Finds the image that a reference names, with any tag or digest and with or without `docker.io/` in front.
    pub fn find(reference: &str) -> Option<Self> {
        let name = reference.strip_prefix("docker.io/").unwrap_or(reference);
        let name = name.split(['@', ':']).next()?;
        match name {
            "vipyard/whoami" => Some(Self::Whoami),
            "vipyard/pause" => Some(Self::Pause),
            "vipyard/host" => Some(Self::Host),
            _ => None,
        }
    }

    /// The name of the program inside this binary; none for the host's file system.
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::Whoami => Some("whoami"),
            Self::Pause => Some("pause"),
            Self::Host => None,
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
    fn image_is_found_with_any_tag_and_registry_prefix() {
        for reference in
            ["vipyard/whoami", "vipyard/whoami:v1", "docker.io/vipyard/whoami:latest", "vipyard/whoami@sha256:0"]
        {
            assert_eq!(Image::find(reference), Some(Image::Whoami), "{reference}");
        }
        assert_eq!(Image::find("vipyard/pause:3"), Some(Image::Pause));
        assert_eq!(Image::find("vipyard/host"), Some(Image::Host));
        assert_eq!(Image::find("nginx"), None);
        assert_eq!(Image::find("quay.io/vipyard/whoami"), None);
    }
}
