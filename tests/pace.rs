//! The box looks less often while it is hot or its detector is too slow, says so, and does all again afterwards: the whole
//! service on a machine whose thermometer the test holds. How long each step lasts is held by `detect/pace.rs`.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Service, api};

/// The kernel's thermal zones as this process and its children see them.
struct Thermometer(tempfile::TempDir);

impl Thermometer {
    fn at(degrees: u32) -> Self {
        let zones = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(zones.0.path().join("thermal_zone0")).unwrap();
        std::fs::write(zones.0.path().join("thermal_zone0/type"), "cpu-thermal\n").unwrap();
        zones.shows(degrees);
        zones
    }

    fn shows(&self, degrees: u32) {
        // Replaced whole: a half-written file is no temperature.
        let (new, file) = (self.0.path().join("new"), self.0.path().join("thermal_zone0/temp"));
        std::fs::write(&new, format!("{degrees}000\n")).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// What becomes `program` where the zones are these.
    fn around(&self, program: &Command) -> Command {
        let mut command = Command::new("unshare");
        let script = "mount --bind \"$0\" /sys/class/thermal && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script]).arg(self.0.path()).arg(program.get_program());
        command.current_dir(support::root());
        command
    }
}

/// Why a test cannot hold the thermometer here.
fn missing() -> Option<String> {
    if let Some(why) = api::missing() {
        return Some(why.into());
    }
    if !Path::new("/sys/class/thermal").is_dir() {
        return Some("no /sys/class/thermal to lay a thermometer over".into());
    }
    let tried = Thermometer::at(20).around(&Command::new("true")).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "cannot lay a thermometer over /sys/class/thermal, which takes root: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("no unshare(1): {error}")),
    }
}

fn pace(service: &Service) -> Value {
    api::json(service, "/api/v1/status")["pace"].clone()
}

fn model(service: &Service) -> Value {
    api::json(service, "/api/v1/status")["detector"]["model"].clone()
}

/// Detections a second over the next seconds.
fn rate(service: &Service, over: Duration) -> f64 {
    let (began, before) = (Instant::now(), api::frames_detected(service));
    std::thread::sleep(over);
    (api::frames_detected(service) - before) as f64 / began.elapsed().as_secs_f64()
}

fn config(detect: &str) -> String {
    format!("decode.backend = \"fake\"\ndetect.backend = \"fake\"\n{detect}")
}

#[test]
fn a_hot_box_looks_less_often_says_so_and_comes_back() {
    if let Some(why) = missing() {
        return support::skip(&why);
    }
    let thermometer = Thermometer::at(55);
    let service = Service::start_by(thermometer.around(&support::spotter()), |_| {
        config("detect.adapt = \"model\"\n")
    });
    let text = std::fs::read_to_string(&service.config).unwrap();
    let _publisher = api::publish(&service, "garden");
    api::until(&service, "detection", || api::frames_detected(&service) > 0);
    let full = serde_json::json!({ "rate_hz": 10.0, "of_hz": 10.0, "reason": null, "since": null });
    assert_eq!((pace(&service), model(&service)), (full, "fake".into()));

    thermometer.shows(86);
    api::until(&service, "the smaller model", || pace(&service)["smaller_model"].is_string());
    let slowed = pace(&service);
    assert_eq!((&slowed["rate_hz"], &slowed["of_hz"]), (&5.0.into(), &10.0.into()), "{slowed}");
    assert_eq!(slowed["smaller_model"], "picodet-s-320");
    assert_eq!(slowed["reason"], "the board is hot, 86 °C");
    assert!(slowed["since"].as_str().unwrap().ends_with('Z'));
    api::until(&service, "its take-over", || model(&service) == "picodet-s-320");
    let seen = rate(&service, Duration::from_secs(3));
    assert!(seen > 0.0 && seen < 7.0, "{seen} detections a second");
    api::until(&service, "the gauge", || {
        let (_, page) = api::get(&service, "/metrics");
        String::from_utf8(page).unwrap().contains("\nspotter_pace_hertz 5\n")
    });

    thermometer.shows(60);
    api::until(&service, "all of it again", || pace(&service)["reason"].is_null());
    assert_eq!(pace(&service)["rate_hz"], 10.0);
    api::until(&service, "the configured model", || model(&service) == "fake");
    api::detection_goes_on(&service);
    let log = service.log();
    assert!(log.matches("looked at less often").count() >= 3, "{log}");
    assert!(log.contains("looked at as often as configured again"), "{log}");

    // The owner wins at once, however hot it is.
    thermometer.shows(90);
    api::until(&service, "the heat", || pace(&service)["rate_hz"] != 10.0);
    std::fs::write(&service.config, text.replace("\"model\"", "\"off\"")).unwrap();
    support::signal(service.process.0.id(), "HUP");
    api::until(&service, "the owner's word", || pace(&service)["rate_hz"] == 10.0);
    std::thread::sleep(Duration::from_secs(2));
    let now = pace(&service);
    assert!(now["rate_hz"] == 10.0 && now["reason"].is_null(), "{now}");
    assert_eq!(model(&service), "fake");
    api::detection_goes_on(&service);
    service.stop();
}

#[test]
fn a_detector_that_does_not_keep_up_is_asked_less_often() {
    if let Some(why) = api::missing() {
        return support::skip(why);
    }
    let service = Service::start(&config("detect.model = \"slow\"\n"));
    let _publisher = api::publish(&service, "garden");
    api::until(&service, "half of the rate", || pace(&service)["rate_hz"] == 5.0);
    assert_eq!(pace(&service)["reason"], "the detector does not keep up");
    // There is no time for more, so more is not tried.
    let since = pace(&service)["since"].clone();
    assert!(rate(&service, Duration::from_secs(5)) > 0.0);
    assert_eq!(pace(&service)["since"], since, "{}", service.log());
    service.stop();
}
