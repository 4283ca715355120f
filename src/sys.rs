//! All unsafe code: system calls that no safe crate wraps. Imports nothing of ours.
#![allow(unsafe_code)]

pub mod datagrams;
pub mod errors;
pub mod inotify;
pub mod mount;
pub mod netns;
pub mod process;
pub mod readiness;
pub mod tun;
pub mod userns;
