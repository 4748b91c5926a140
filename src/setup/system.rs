//! What the image's parts read: host name, time zone, who may log in, Wi-Fi. It makes plain files in one directory, each in the
//! form of the program that reads it, and starts none of these programs.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

use rand::Rng;
use ring::pbkdf2;

use super::networks::Networks;
use crate::config::{Config, Network};
use crate::files::{self, Replaced};

pub const HOST_NAME: &str = "hostname";
/// The group that the service runs in.
const SERVICE: &str = "spotter";
/// Of the access point that the image opens where there is no network.
pub const AP_PASSPHRASE: &str = "ap-passphrase";

pub(super) fn make_dir(dir: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(dir)?;
    // The service reads what is its by its group.
    let group = fs::read_to_string("/etc/group").ok().and_then(|text| group_id(&text, SERVICE));
    if let Some(group) = group
        && fs::metadata(dir)?.gid() != group
    {
        // Who is not root sets nothing up but for trying.
        let _ = chown(dir, None, Some(group));
    }
    Ok(())
}

/// Of group(5).
fn group_id(text: &str, name: &str) -> Option<u32> {
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Writes every file that differs, and removes those that nothing is asked of; each with how that went.
pub(super) fn lay_down(
    to: &Path,
    config: &Config,
    name: &str,
    networks: &Networks,
) -> Vec<(PathBuf, io::Result<Replaced>)> {
    let machine = &config.machine;
    let mut all = Vec::new();
    let mut put = |name: &str, mode: u32, text: Option<String>| {
        let file = to.join(name);
        let done = match text {
            Some(text) => files::replace(&file, text.as_bytes(), mode),
            None => files::remove(&file),
        };
        all.push((file, done));
    };
    put(HOST_NAME, 0o644, Some(format!("{}\n", host_name(name))));
    let zone = Some(&machine.time_zone).filter(|zone| !zone.is_empty());
    put("timezone", 0o644, zone.map(|zone| format!("{zone}\n")));
    let keys = machine.ssh_keys.iter().map(|key| format!("{}\n", key.trim())).collect::<String>();
    put("authorized_keys", 0o600, Some(keys).filter(|keys| !keys.is_empty()));
    put("wpa_supplicant.conf", 0o600, Some(wpa_supplicant(networks)));
    put("networks", 0o644, Some(format!("{}\n", networks.wifi.len())));
    let passphrase = to.join(AP_PASSPHRASE);
    if !passphrase.exists() {
        put(AP_PASSPHRASE, 0o600, Some(format!("{}\n", new_passphrase())));
    }
    let link = to.join("localtime");
    let done = local_time(&link, zone.map(String::as_str));
    all.push((link, done));
    all
}

fn local_time(link: &Path, zone: Option<&str>) -> io::Result<Replaced> {
    let Some(zone) = zone else { return files::remove(link) };
    let target = Path::new("/usr/share/zoneinfo").join(zone);
    if fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(Replaced::AsItWas);
    }
    let draft = link.with_file_name(".localtime.draft");
    let _ = fs::remove_file(&draft);
    symlink(&target, &draft)?;
    fs::rename(&draft, link).map(|()| Replaced::Written)
}

/// A node's name as a host's: what a host name cannot hold is a '-'.
pub fn host_name(node: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = node.chars().map(legal).take(63).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "spotter".into() } else { name.into() }
}

/// The configuration of wpa_supplicant, which reads a name in hexadecimal whatever is in it.
fn wpa_supplicant(networks: &Networks) -> String {
    let mut text = String::from(
        "# Made by `spotter setup` from spotter.toml and from what was chosen on the page: changes are lost.\n\
         ctrl_interface=/run/wpa_supplicant\nupdate_config=0\n",
    );
    if !networks.country.is_empty() {
        let _ = writeln!(text, "country={}", networks.country);
    }
    for Network { name, password } in &networks.wifi {
        let ssid = hex(name.as_bytes());
        // Hidden networks answer to their name only.
        let _ = writeln!(text, "network={{\n\tssid={ssid}\n\tscan_ssid=1");
        let password = password.expose();
        match password.len() {
            0 => text.push_str("\tkey_mgmt=NONE\n"),
            // A key already derived from password and name; it does not serve WPA3.
            64 => {
                let _ = writeln!(text, "\tpsk={password}\n\tkey_mgmt=WPA-PSK WPA-PSK-SHA256");
            }
            // WPA3 needs the password itself.
            _ => {
                let (psk, password) = (psk(name, password), escaped(password));
                let _ = writeln!(
                    text,
                    "\tpsk={psk}\n\tsae_password=P\"{password}\"\n\tkey_mgmt=WPA-PSK WPA-PSK-SHA256 SAE\n\tieee80211w=1"
                );
            }
        }
        text.push_str("}\n");
    }
    text
}

/// The key that WPA2 derives from a password (IEEE 802.11, J.4). In quotes, wpa_supplicant would take it itself, but loses what follows
/// on a quote and a '#'.
fn psk(name: &str, password: &str) -> String {
    const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).expect("it is not 0");
    let mut key = [0; 32];
    let kind = pbkdf2::PBKDF2_HMAC_SHA1;
    pbkdf2::derive(kind, ROUNDS, name.as_bytes(), password.as_bytes(), &mut key);
    hex(&key)
}

/// For wpa_supplicant's P"..." form, without any character that means something there.
fn escaped(text: &str) -> String {
    text.bytes().map(|b| format!("\\x{b:02x}")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Easy to read from a screen and to type on a phone: no letter that looks like another, 59 bits.
fn new_passphrase() -> String {
    const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
    let mut rng = rand::rng();
    (0..12).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Password;

    #[test]
    fn networks_are_written_as_wpa_supplicant_reads_them() {
        let network = |name: &str, password: &str| Network {
            name: name.into(),
            password: Password::new(password),
        };
        let networks = Networks {
            country: "DE".into(),
            wifi: vec![
                network("caf\u{e9}\"}", "pass\"}#word"),
                network("open", ""),
                network("hex", &"ab".repeat(32)),
            ],
        };
        let text = wpa_supplicant(&networks);
        assert!(text.contains("\ncountry=DE\nnetwork={\n\tssid=636166c3a9227d\n"), "{text}");
        assert!(text.contains("\tsae_password=P\"\\x70\\x61\\x73\\x73\\x22\\x7d\\x23"), "{text}");
        assert!(text.contains("\tssid=6f70656e\n\tscan_ssid=1\n\tkey_mgmt=NONE\n}"), "{text}");
        assert!(text.contains(&format!("\tpsk={}\n", "ab".repeat(32))), "{text}");
        assert_eq!(text.matches('\n').count(), 3 + 1 + 8 + 5 + 6);
    }

    #[test]
    fn keys_are_derived_as_the_standard_s_examples_are() {
        // IEEE 802.11-2020, J.4.2.
        let key = "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e";
        assert_eq!(psk("IEEE", "password"), key);
    }

    #[test]
    fn a_group_is_found() {
        let text = "root:x:0:\nspotters:x:7:\nspotter:x:900:a,b\n";
        assert_eq!(group_id(text, "spotter"), Some(900));
        assert_eq!(group_id("spotter\n", "spotter"), None);
    }

    #[test]
    fn every_node_has_a_host_s_name() {
        assert_eq!(host_name("spotter-3f2a"), "spotter-3f2a");
        assert_eq!(host_name("my_barn.2"), "my-barn-2");
        assert_eq!(host_name("\u{e9}\u{e9}"), "spotter");
        assert_eq!(host_name(&"x".repeat(99)).len(), 63);
        let made = new_passphrase();
        assert!(made.len() == 12 && made != new_passphrase());
    }
}
