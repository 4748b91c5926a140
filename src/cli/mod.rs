//! The commands beside `run`, one file each. They print to standard output; faults go up to `main`.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod detect;
pub(crate) mod probe;
pub(crate) mod token;
