//! The Wi-Fi networks that were chosen, on the card and on the page: kept in a private file each, judged each time they are
//! read. Joining them is the image's business.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{self, Machine, Network};
use crate::files::{self, Replaced};

/// What was chosen on the page, in the state directory. The service writes it and root reads it.
pub const CHOSEN: &str = "wifi.toml";
const MAX_BYTES: u64 = 64 << 10;
/// Chosen on the page; the oldest goes.
const MAX_CHOSEN: usize = 8;

/// Networks and where they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Networks {
    #[serde(default)]
    pub(super) country: String,
    #[serde(default)]
    pub(super) wifi: Vec<Network>,
}

impl Networks {
    pub(super) fn write(&self, file: &Path) -> io::Result<Replaced> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        files::replace(file, text.as_bytes(), 0o600)
    }

    /// The same network twice stays twice: the box joins with the password that is right.
    pub(super) fn add(&mut self, others: Self) {
        if self.country.is_empty() {
            self.country = others.country;
        }
        for network in others.wifi {
            if !self.wifi.contains(&network) {
                self.wifi.push(network);
            }
        }
    }
}

pub(super) fn of(machine: &Machine) -> Networks {
    Networks { country: machine.wifi_country.clone(), wifi: machine.wifi.clone() }
}

/// None where there is no file, or none that can be trusted; that is said without its words, which may be secret.
pub(super) fn read(file: &Path, said: &mut Vec<String>) -> Networks {
    let bad = || format!("{} is damaged and left out: choose those networks again", file.display());
    let bytes = match files::read(file, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Networks::default(),
        Err(_) => {
            said.push(bad());
            return Networks::default();
        }
    };
    let networks = String::from_utf8(bytes).ok().and_then(|text| toml::from_str(&text).ok());
    let judged = networks.filter(|networks: &Networks| {
        let machine = Machine {
            wifi_country: networks.country.clone(),
            wifi: networks.wifi.clone(),
            ..Machine::default()
        };
        config::Config { machine, ..config::Config::default() }.validate().is_empty()
    });
    judged.unwrap_or_else(|| {
        said.push(bad());
        Networks::default()
    })
}

#[derive(Debug, thiserror::Error)]
pub enum ChooseError {
    #[error("{key} {message}")]
    Bad { key: &'static str, message: String },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// Adds a network to those chosen on the page; a new password takes the place of its old one. Blocks for a small file.
pub fn choose(state_dir: &Path, network: Network) -> Result<(), ChooseError> {
    if let Some((key, message)) = network.faults().into_iter().next() {
        return Err(ChooseError::Bad { key, message });
    }
    let file = state_dir.join(CHOSEN);
    let mut networks = read(&file, &mut Vec::new());
    networks.wifi.retain(|other| other.name != network.name);
    networks.wifi.push(network);
    let too_many = networks.wifi.len().saturating_sub(MAX_CHOSEN);
    networks.wifi.drain(..too_many);
    let written = networks.write(&file);
    written.map(|_| ()).map_err(|source| ChooseError::Write { path: file, source })
}

/// The names of the networks chosen on the page.
pub fn chosen(state_dir: &Path) -> Vec<String> {
    let networks = read(&state_dir.join(CHOSEN), &mut Vec::new());
    networks.wifi.into_iter().map(|network| network.name).collect()
}
