//! The program: arguments, logging, configuration, the service, signals, exit code.

fn main() {}
