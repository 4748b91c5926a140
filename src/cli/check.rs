//! `spotter check`: validates a configuration and says where it came from.

use std::path::Path;

use spotter::app::Failure;
use spotter::config;

pub(crate) fn run(file: Option<&Path>) -> Result<(), Failure> {
    let loaded = config::load(file)?;
    match loaded.file {
        Some(file) => println!("{}: ok", file.display()),
        None => println!("no configuration file; the defaults serve"),
    }
    Ok(())
}
