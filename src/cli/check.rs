//! `spotter check`: validates a configuration, looks whether the files it names can be used, and says where it came from.

use std::path::Path;

use spotter::app::Failure;
use spotter::app::foresee::{self, Facts, Rights};
use spotter::config::{self, ConfigError};

pub(crate) fn run(file: Option<&Path>) -> Result<(), Failure> {
    let loaded = config::load(file)?;
    // What user and rights the service has is not known here.
    let config = &loaded.config;
    let problems = foresee::judge(config, &Facts::of(config), &Rights::default());
    if !problems.is_empty() {
        let place = loaded.file.as_ref().map_or("defaults".into(), |f| f.display().to_string());
        let text = loaded.file.and_then(|file| std::fs::read_to_string(file).ok());
        let faults = config::placed(text.as_deref().unwrap_or_default(), problems);
        return Err(ConfigError { place, faults }.into());
    }
    match loaded.file {
        Some(file) => println!("{}: ok", file.display()),
        None => println!("no configuration file; the defaults serve"),
    }
    Ok(())
}
