//! The karat binary.
fn main() {}
