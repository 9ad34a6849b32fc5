<<<<<<< HEAD
//! The command line of Embedrock.
#![forbid(unsafe_code)]

=======
>>>>>>> train
fn main() {}
