//! The command line of Embedrock.
#![forbid(unsafe_code)]

fn main() {}
