//! Puts an attacker where a device model is and lets it try; says what got through and what stopped the rest.
//!
//! [`place`] learns where the device model is, [`decoy`] plays its neighbour, [`catalogue`] holds the attacks,
//! [`matrix`] runs each attack with all layers, with none (the positive control) and with each layer alone, and
//! [`render`] prints the verdicts. The device model itself is only read, never touched.
#![forbid(unsafe_code)]

pub mod catalogue;
mod cgroup;
pub mod decoy;
pub mod matrix;
pub mod place;
pub mod render;
