//! The command `lycomerge`.

fn main() {}
