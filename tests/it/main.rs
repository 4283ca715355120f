//! The API server and the controllers in one process, asked over HTTP without a socket. Needs no privilege: no Pod
//! runs here, tests write the status of Pods and nodes as a node agent would.

mod access;
mod controllers;
mod custom_resources;
mod deletion;
mod errors;
mod events;
mod golden;
mod kept;
mod limits;
mod lists;
mod networking;
mod openapi;
mod patches;
mod restart;
mod service_rules;
mod services;
mod subresources;
mod verbs;
mod watches;
mod world;
