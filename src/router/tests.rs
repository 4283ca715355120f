//! The pipeline packet by packet: packets are built and checked with etherparse, plans are compiled from objects.

mod conntrack;
mod egress;
mod faults;
mod fuzz;
mod meter;
mod outside;
mod policies;
mod services;
pub(in crate::router) mod world;
