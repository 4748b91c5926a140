//! What would keep the service from starting with a configuration whose values are right each by itself: told before anything is
//! started, by `spotter check` and, on a box, by `spotter setup`. `Facts` looks at this machine, `judge` is pure. What nobody
//! foresees here the service says itself as it ends.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use crate::board;
use crate::config::{Config, DetectBackend, Problem};
use crate::detect::{self, OpenError, locate};
use crate::tls;

/// What the service may do on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// Ports from here on are everybody's.
    pub first_port: u16,
    /// Where it may write; empty: anywhere.
    pub writable: Vec<PathBuf>,
}

impl Rights {
    /// Of a service without any: it writes to these folders alone.
    pub fn of_service(writable: &[PathBuf]) -> Self {
        let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let first_port = start.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
        Self { first_port, writable: writable.to_vec() }
    }
}

/// What of the files that a configuration names cannot be used, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub unusable: Vec<(&'static str, String)>,
}

impl Facts {
    /// Reads small files: the model's manifest, certificates, the head of a library.
    pub fn of(config: &Config) -> Self {
        let mut unusable = Vec::new();
        unusable.extend(model(config));
        for (key, library) in [
            ("detect.library", &config.detect.library),
            ("detect.onnx.library", &config.detect.onnx.library),
        ] {
            let named = !library.as_os_str().is_empty();
            if let Some(why) = named.then(|| locate::library_fault(library)).flatten() {
                let file = library.display();
                unusable.push((key, format!("{file}: {why}; name another, or leave it out")));
            }
        }
        for (section, certificate, tls) in [
            ("ingest.tls", "ingest.tls.certificate", config.ingest.tls.clone()),
            ("mqtt.tls", "mqtt.tls.certificate", config.mqtt.tls.as_tls()),
        ] {
            if tls.is_on()
                && let Err(why) = tls::judge(section, &tls)
            {
                unusable.push((certificate, why.to_string()));
            }
        }
        Self { unusable }
    }
}

fn model(config: &Config) -> Option<(&'static str, String)> {
    let cfg = &config.detect;
    let own = cfg.delegate.as_ref().is_some_and(|delegate| !delegate.model.is_empty());
    if cfg.backend == DetectBackend::Fake || own {
        return None;
    }
    let default_model = board::board().kind.profile().model.into();
    let paths = detect::Paths { default_model, ..detect::Paths::new("") };
    match detect::judge_model(cfg, &paths).err()? {
        why @ OpenError::NoAnimals { .. } => Some(("detect.animals", why.to_string())),
        // That the board's own model is damaged is no fault of the configuration.
        _ if cfg.model == "auto" && cfg.model_dir.as_os_str().is_empty() => None,
        why => Some(("detect.model", why.to_string())),
    }
}

/// All that would keep a service with these rights from starting.
pub fn judge(config: &Config, facts: &Facts, rights: &Rights) -> Vec<Problem> {
    let problem = |key: &str, message: String| Problem { key: key.into(), message };
    let unusable = facts.unusable.iter().map(|(key, why)| problem(key, why.clone()));
    let ports =
        doors(config).into_iter().filter(|(_, at)| (1..rights.first_port).contains(&at.port()));
    let ports = ports.map(|(key, at)| {
        let first = rights.first_port;
        problem(
            key,
            format!(
                "{at} is a port that the service has no right to: give one from {first} to 65535"
            ),
        )
    });
    let written = [("node.state_dir", &config.node.state_dir), ("record.dir", &config.record.dir)];
    let written = written.into_iter().filter(|(_, dir)| !may_write(dir, &rights.writable));
    let written = written.map(|(key, dir)| {
        let places: Vec<_> = rights.writable.iter().map(|p| p.display().to_string()).collect();
        problem(
            key,
            format!(
                "the service may not write to {}, but only to {}: name a folder in there, or leave it out",
                dir.display(),
                places.join(" and ")
            ),
        )
    });
    unusable.chain(ports).chain(written).collect()
}

/// The doors that are opened, by the key of their address.
fn doors(config: &Config) -> Vec<(&'static str, SocketAddr)> {
    let mqtt = config.mqtt.enabled && crate::mqtt::has_embedded(&config.mqtt);
    let all = [
        (true, "ingest.listen", config.ingest.listen),
        (config.ingest.tls.is_on(), "ingest.tls.listen", config.ingest.tls.listen),
        (config.ingest.srt.enabled, "ingest.srt.listen", config.ingest.srt.listen),
        (config.websocket.enabled, "websocket.listen", config.websocket.listen),
        (config.web.enabled, "web.listen", config.web.listen),
        (mqtt, "mqtt.listen", config.mqtt.listen),
        (mqtt && config.mqtt.tls.as_tls().is_on(), "mqtt.tls.listen", config.mqtt.tls.listen),
    ];
    all.into_iter().filter_map(|(open, key, at)| open.then_some((key, at))).collect()
}

/// A relative folder lies in the state directory, where the service works.
fn may_write(dir: &Path, writable: &[PathBuf]) -> bool {
    let climbs = dir.components().any(|part| part == Component::ParentDir);
    writable.is_empty()
        || !climbs && (dir.is_relative() || writable.iter().any(|place| dir.starts_with(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str, rights: &Rights) -> Vec<(String, String)> {
        let config: Config = toml::from_str(text).unwrap();
        let found = judge(&config, &Facts::of(&config), rights);
        found.into_iter().map(|p| (p.key, p.message)).collect()
    }

    #[test]
    fn what_the_unit_forbids_is_told_by_its_key() {
        let rights = Rights { first_port: 1024, writable: vec!["/var/lib/spotter".into()] };
        assert_eq!(faults("", &rights), []);
        let text = "node.state_dir = \"/data\"\nweb.listen = \"0.0.0.0:80\"\nrecord.dir = \"/var/lib/spotter/../x\"\n";
        let keys: Vec<_> = faults(text, &rights).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["web.listen", "node.state_dir", "record.dir"]);
        let fine = "web.enabled = false\nweb.listen = \"0.0.0.0:80\"\nrecord.dir = \"here\"\nnode.state_dir = \"/var/lib/spotter/x\"\n";
        assert_eq!(faults(fine, &rights), []);
        assert_eq!(faults(text, &Rights::default()), []);
    }

    #[test]
    fn a_model_that_is_not_there_is_told_with_those_that_are() {
        let told = faults(
            "detect.backend = \"auto\"\ndetect.model = \"yolov4-tini-416\"\n",
            &Rights::default(),
        );
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].0 == "detect.model" && told[0].1.contains("picodet-s-320, picodet-s-416"),
            "{told:?}"
        );
        let told = faults(
            "detect.backend = \"auto\"\ndetect.animals = [\"unicorn\"]\n",
            &Rights::default(),
        );
        assert!(told[0].0 == "detect.animals" && told[0].1.contains("unicorn"), "{told:?}");
        assert_eq!(
            faults("detect.backend = \"fake\"\ndetect.model = \"hang\"\n", &Rights::default()),
            []
        );
    }

    #[test]
    fn files_that_are_no_library_and_no_certificate_are_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "nothing").unwrap();
        let named = file.path();
        let text = format!(
            "detect.library = {named:?}\n[ingest.tls]\ncertificate = {named:?}\nkey = {named:?}\n"
        );
        let keys: Vec<_> =
            faults(&text, &Rights::default()).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["detect.library", "ingest.tls.certificate"]);
    }
}
