//! The lab: network namespaces that stand for the real hosts.
