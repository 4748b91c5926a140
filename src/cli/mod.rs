//! The commands beside `run`, one file each. They print to standard output; faults go up to `main`.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod detect;
pub(crate) mod probe;
pub(crate) mod setup;
pub(crate) mod token;
pub(crate) mod update;
pub(crate) mod url;
