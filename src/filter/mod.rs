//! System call filters: named rules in, a BPF program out, and an interpreter that judges any program. Pure.
#![forbid(unsafe_code)]
