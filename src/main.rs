//! The thin binary; see the library for everything.

fn main() {}
