//! Vipyard: a Kubernetes Service network in one process.
#![deny(unsafe_code)]

pub mod cluster;
pub mod config;
pub mod plan;
pub mod router;
pub mod sys;
