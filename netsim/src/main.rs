//! Grows with the first issue.
fn main() {}
