//! The bodies of the fuzz targets: what they do with an input, and what must never happen. `fuzz/` gives them to
//! libFuzzer, and `tests/corpus.rs` runs them over the committed corpora.
//!
//! * [`frame`]: any bytes as an Ethernet frame, through every path.
//! * [`engine`]: a history of packets, time and changes, once with XDP and once without.
//!
//! [`world`] has the node's tables, [`packet`] builds and reads packets, and [`sound`] judges what became of one. None
//! of them asks the engine how a packet is read or summed up.

pub mod engine;
pub mod frame;
pub mod packet;
pub mod sound;
pub mod world;
