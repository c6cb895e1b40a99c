//! Diffs, and what applying them does to tables in memory, which watch every write as the datapath would see it.

mod failures;
mod fake_tables;
mod order;
mod sequences;
mod view;
mod wanted;
