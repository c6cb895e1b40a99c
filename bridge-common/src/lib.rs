//! Table layouts and packet engine of office-bridge.
#![no_std]
