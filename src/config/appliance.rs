//! What the owner can set of the box itself: its name on the network, Wi-Fi, time zone, who may log in, how it is found and
//! how it is updated. `spotter setup` carries out what `[box]` says; the service does not.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::Config;
use super::validate::Problems;

/// The machine spotter runs on, where the machine is spotter's (the SD image).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// Empty: the node's name.
    pub hostname: String,
    /// As in "Europe/Berlin"; empty: UTC.
    pub time_zone: String,
    /// Public keys that may log in as root by SSH; none: nobody.
    pub ssh_keys: Vec<String>,
    /// Two letters; Wi-Fi keeps to that country's channels. Empty: to those that are free everywhere.
    pub wifi_country: String,
    pub wifi: Vec<Network>,
    /// Where the parts of the box that run as root tell the service how they stand.
    pub run_dir: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            time_zone: String::new(),
            ssh_keys: Vec::new(),
            wifi_country: String::new(),
            wifi: Vec::new(),
            run_dir: "/run/spotter-box".into(),
        }
    }
}

/// A Wi-Fi network to join.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    pub name: String,
    /// Empty: an open network.
    #[serde(default)]
    pub password: Password,
}

/// A Wi-Fi password. It is shown only where someone calls [`Password::expose`].
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Says the same of everything that is no text: the usual message would quote it.
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Password;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes, as in password = \"...\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Password, E> {
                Ok(Password(text.to_owned()))
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Password, E> {
                Err(E::custom(UNQUOTED))
            }
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Password, E> {
                Err(E::custom(UNQUOTED))
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Password, E> {
                Err(E::custom(UNQUOTED))
            }
            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Password, E> {
                Err(E::custom(UNQUOTED))
            }
        }
        const UNQUOTED: &str = "a password is text: put it in quotes, as in password = \"...\"";
        deserializer.deserialize_str(Text)
    }
}

/// How the box is found in its network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Announce {
    /// By mDNS: `<node>.local` and the services behind our doors.
    pub enabled: bool,
}

impl Default for Announce {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Where newer systems come from, for boxes that are updated as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Update {
    /// A JSON file that tells the newest version, by https://, http:// or its path; empty: none is asked.
    pub url: String,
    pub check_interval_h: u64,
    /// Certificates to trust with https in place of the system's.
    pub ca_file: PathBuf,
    /// Of a bundle that is fetched or sent in.
    pub max_bundle_bytes: u64,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            url: String::new(),
            check_interval_h: 24,
            ca_file: PathBuf::new(),
            max_bundle_bytes: 2 << 30,
        }
    }
}

/// Where time zones are described.
const ZONES: &str = "/usr/share/zoneinfo";
/// More than anybody has.
const MAX_NETWORKS: usize = 32;
const MAX_KEYS: usize = 64;

impl Config {
    pub(super) fn appliance(&self, p: &mut Problems) {
        self.machine.judge(p, Path::new(ZONES));
        let u = &self.update;
        let fine = u.url.is_empty()
            || u.url.starts_with('/')
            || url::Url::parse(&u.url).is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
        p.unless(fine, "update.url", || {
            format!(
                "{:?} is no place to ask: give https://..., http://..., or a path that begins with /",
                u.url
            )
        });
        p.file("update.ca_file", &u.ca_file);
        p.between("update.check_interval_h", u.check_interval_h, 1, 8760);
        p.between("update.max_bundle_bytes", u.max_bundle_bytes, 1 << 20, 64 << 30);
    }
}

impl Machine {
    pub(super) fn judge(&self, p: &mut Problems, zones: &Path) {
        p.unless(self.hostname.is_empty() || is_host_name(&self.hostname), "box.hostname", || {
            format!(
                "{:?} is no host name: use 1 to 63 letters, digits and '-', not at its ends",
                self.hostname
            )
        });
        p.unless(
            self.time_zone.is_empty() || is_zone(&self.time_zone, zones),
            "box.time_zone",
            || {
                format!(
                    "there is no time zone {:?}: give one as \"Europe/Berlin\", or \"\" for UTC",
                    self.time_zone
                )
            },
        );
        p.unless(self.ssh_keys.len() <= MAX_KEYS, "box.ssh_keys", || {
            format!("are {}: give at most {MAX_KEYS}", self.ssh_keys.len())
        });
        for key in &self.ssh_keys {
            if let Err(why) = is_public_key(key) {
                p.unless(false, "box.ssh_keys", || why.to_owned());
            }
        }
        let letters = self.wifi_country.bytes().all(|b| b.is_ascii_uppercase());
        p.unless(
            self.wifi_country.is_empty() || (letters && self.wifi_country.len() == 2),
            "box.wifi_country",
            || {
                format!(
                    "{:?} is no country: give its two capital letters, as \"DE\"",
                    self.wifi_country
                )
            },
        );
        p.unless(self.wifi.len() <= MAX_NETWORKS, "box.wifi", || {
            format!("are {}: give at most {MAX_NETWORKS}", self.wifi.len())
        });
        for (n, network) in self.wifi.iter().enumerate() {
            for (key, message) in network.faults() {
                p.unless(false, &format!("box.wifi[{n}].{key}"), || message);
            }
        }
    }
}

impl Network {
    /// What is wrong, by key. Never the password itself.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let (name, password) = (&self.name, self.password.expose());
        if name.is_empty() || name.len() > 32 || name.chars().any(char::is_control) {
            let message = format!(
                "{name:?} is no network's name: give 1 to 32 characters (of UTF-8: bytes), as your router shows it"
            );
            faults.push(("name", message));
        }
        let printable = password.bytes().all(|b| (32..=126).contains(&b));
        let hexadecimal = password.len() == 64 && password.bytes().all(|b| b.is_ascii_hexdigit());
        let fine =
            password.is_empty() || (printable && (8..=63).contains(&password.len())) || hexadecimal;
        if !fine {
            let long = password.chars().count();
            let message = format!(
                "cannot be a Wi-Fi password ({long} characters): give 8 to 63 ASCII characters, or \"\" for an open network"
            );
            faults.push(("password", message));
        }
        faults
    }
}

/// One label of a host name (RFC 1123).
fn is_host_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_zone(text: &str, zones: &Path) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
    let well_formed = text.len() <= 64 && text.chars().all(legal) && !text.starts_with('/');
    // Where no zone is described, its form is all that can be judged.
    well_formed && (!zones.is_dir() || zones.join(text).is_file())
}

/// A line of authorized_keys without options: kind, key, comment.
fn is_public_key(text: &str) -> Result<(), &'static str> {
    if text.contains("PRIVATE KEY") {
        return Err(
            "holds a private key: take it out, and give the public one (the file that ends in .pub)",
        );
    }
    const BAD: &str = "holds what is no public key: give the line of the .pub file, as \"ssh-ed25519 AAAA... you@laptop\"";
    let mut words = text.split_ascii_whitespace();
    let (Some(kind), Some(key)) = (words.next(), words.next()) else { return Err(BAD) };
    let kinds = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"];
    let blob = STANDARD.decode(key).map_err(|_| BAD)?;
    // The key begins with its own kind (RFC 4253, 6.6), so that a line cut in two is noticed.
    let mut head = u32::try_from(kind.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    head.extend_from_slice(kind.as_bytes());
    let fine = kinds.iter().any(|k| kind.starts_with(k))
        && blob.starts_with(&head)
        && text.len() <= 16 << 10
        && !text.chars().any(char::is_control);
    if fine { Ok(()) } else { Err(BAD) }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3sQmVwq6y0Zb0n5o3G1iZ8n8q0c0c0c0c0c0c0c0c0 me@laptop";

    #[test]
    fn a_box_is_taken_as_it_is_written() {
        let text = format!(
            "[box]\nhostname = \"barn\"\ntime_zone = \"Europe/Berlin\"\nssh_keys = [\"{KEY}\"]\nwifi_country = \"DE\"\n\
             wifi = [{{ name = \"caf\u{e9} 1\", password = \"pass \\\" word\" }}, {{ name = \"open\" }}]\n"
        );
        let config = parse("f", &text).unwrap();
        assert_eq!(config.machine.wifi[0].password.expose(), "pass \" word");
        assert_eq!(config.machine.wifi[1].password.expose(), "");
        assert!(!format!("{config:?}").contains("pass \\"));
    }

    #[test]
    fn faults_name_their_key_and_never_a_password() {
        for (text, key) in [
            ("hostname = \"a_b\"", "box.hostname"),
            ("hostname = \"-a\"", "box.hostname"),
            ("time_zone = \"../etc/passwd\"", "box.time_zone"),
            ("time_zone = \"Mars/Olympus\"", "box.time_zone"),
            ("wifi_country = \"de\"", "box.wifi_country"),
            ("ssh_keys = [\"ssh-ed25519 AAAA\"]", "box.ssh_keys"),
            ("ssh_keys = [\"-----BEGIN OPENSSH PRIVATE KEY-----\"]", "box.ssh_keys"),
            ("wifi = [{ name = \"\", password = \"hush-hush\" }]", "box.wifi[0].name"),
            ("wifi = [{ name = \"n\", password = \"hush\" }]", "box.wifi[0].password"),
            (
                "wifi = [{ name = \"n\", password = \"hush hush h\u{fc}sh\" }]",
                "box.wifi[0].password",
            ),
            ("wifi = [{ name = \"n\", password = 123454321 }]", "in quotes"),
            ("wifi = [{ name = \"n\", password = 1234.54321 }]", "in quotes"),
            ("wifi = [{ name = \"n\", passwort = \"hush-hush\" }]", "passwort"),
        ] {
            let error = parse("f", &format!("[box]\n{text}\n")).unwrap_err().to_string();
            assert!(error.contains(key) && error.starts_with("f:2: "), "{text}: {error}");
            assert!(!error.contains("hush") && !error.contains("54321"), "{error}");
        }
    }
}
