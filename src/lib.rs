//! Vipyard: a Kubernetes Service network in one process.
#![deny(unsafe_code)]

pub mod api;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod controllers;
pub mod dashboard;
pub mod dns;
pub mod events;
pub mod images;
pub mod lifecycle;
pub mod netlink;
pub mod node;
pub mod plan;
pub mod router;
pub mod store;
pub mod sys;
pub mod telemetry;
