//! How warm the machine is and whether it holds its processor back. It reads; it does not act.

use std::path::Path;

use serde::Serialize;

use super::{entries, text};

/// A place whose temperature the kernel knows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Zone {
    /// As in "cpu-thermal".
    pub name: String,
    pub temperature_c: f32,
}

/// All thermal zones that tell.
pub fn zones(root: &Path) -> Vec<Zone> {
    let class = root.join("sys/class/thermal");
    let names = entries(&class).into_iter().filter(|n| n.starts_with("thermal_zone"));
    let zone = |name: String| {
        let millis: i32 = text(&class.join(&name).join("temp"))?.parse().ok()?;
        // Zones that are off report zero or nonsense below it.
        let temperature_c = (1..200_000).contains(&millis).then_some(millis as f32 / 1000.0)?;
        Some(Zone { name: text(&class.join(&name).join("type")).unwrap_or(name), temperature_c })
    };
    names.filter_map(zone).collect()
}

/// The warmest thermal zone in degrees Celsius.
pub fn temperature_c(root: &Path) -> Option<f32> {
    zones(root).into_iter().map(|z| z.temperature_c).reduce(f32::max)
}

/// Whether this machine says what slows it at all.
pub fn tells_throttling(root: &Path) -> bool {
    pi_bits(root).is_some() || !coolers(root).is_empty()
}

/// What slows the processor now, in words; empty when nothing does or the machine does not tell.
pub fn throttled(root: &Path) -> Vec<String> {
    pi_bits(root).map_or_else(|| cooling(root), pi_throttled)
}

/// The same for any time since the machine was started, which only Raspberry Pi's firmware tells.
pub fn since_boot(root: &Path) -> Vec<String> {
    pi_bits(root).map_or_else(Vec::new, |bits| pi_throttled(bits >> 16))
}

fn pi_bits(root: &Path) -> Option<u32> {
    // Raspberry Pi's own kernel has one place on the older boards and another on Pi 5; the last is the module of our image, for
    // mainline's kernel.
    let places = [
        "sys/devices/platform/soc/soc:firmware/get_throttled",
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled",
        "sys/devices/platform/axi/axi:firmware/get_throttled",
        "sys/devices/platform/spotter-firmware/get_throttled",
    ];
    let told = places.iter().find_map(|p| text(&root.join(p)))?;
    u32::from_str_radix(told.trim_start_matches("0x"), 16).ok()
}

/// Raspberry Pi's firmware: bits 0 to 3 say what is so now (raspberrypi.com, vcgencmd get_throttled).
fn pi_throttled(bits: u32) -> Vec<String> {
    let causes =
        ["supply voltage too low", "frequency capped", "throttled", "soft temperature limit"];
    let now = causes.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
    now.map(|(_, cause)| cause.to_string()).collect()
}

/// The kernel's cooling devices that hold a processor back.
fn cooling(root: &Path) -> Vec<String> {
    let active = coolers(root).into_iter().filter(|(_, step)| *step > 0);
    // Without the step, which changes all the time.
    let mut active: Vec<_> = active.map(|(kind, _)| format!("held back by {kind}")).collect();
    active.dedup();
    active
}

/// Those that hold a processor back, and at which step they are.
fn coolers(root: &Path) -> Vec<(String, u32)> {
    let class = root.join("sys/class/thermal");
    let devices = entries(&class).into_iter().filter(|n| n.starts_with("cooling_device"));
    let cooler = |device: String| {
        let kind = text(&class.join(&device).join("type"))?;
        let step = text(&class.join(&device).join("cur_state"))?.parse().ok()?;
        (kind.contains("cpufreq") || kind == "Processor").then_some((kind, step))
    };
    devices.filter_map(cooler).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::machine;
    use super::*;

    #[test]
    fn the_warmest_zone_counts() {
        let root = machine(&[
            ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone1/temp", "61500\n"),
            ("sys/class/thermal/thermal_zone2/temp", "-274000\n"),
            ("sys/class/thermal/cooling_device0/type", "thermal-cpufreq-0\n"),
            ("sys/class/thermal/cooling_device0/cur_state", "2\n"),
            ("sys/class/thermal/cooling_device1/type", "pwm-fan\n"),
            ("sys/class/thermal/cooling_device1/cur_state", "3\n"),
        ]);
        assert_eq!(temperature_c(root.path()), Some(61.5));
        assert_eq!(zones(root.path())[0].name, "cpu-thermal");
        assert!(tells_throttling(root.path()));
        assert_eq!(throttled(root.path()), ["held back by thermal-cpufreq-0"]);
    }

    #[test]
    fn a_pi_tells_by_its_firmware() {
        let file = "sys/devices/platform/soc/soc:firmware/get_throttled";
        assert_eq!(
            throttled(machine(&[(file, "50005\n")]).path()),
            ["supply voltage too low", "throttled"]
        );
        let before = machine(&[(file, "50000\n")]);
        assert!(throttled(before.path()).is_empty());
        assert_eq!(since_boot(before.path()), ["supply voltage too low", "throttled"]);
        assert!(throttled(machine(&[(file, "rubbish")]).path()).is_empty());
        let ours = machine(&[("sys/devices/platform/spotter-firmware/get_throttled", "1\n")]);
        assert_eq!(throttled(ours.path()), ["supply voltage too low"]);
    }

    #[test]
    fn a_machine_without_sensors_says_nothing() {
        let root = machine(&[]);
        assert_eq!(temperature_c(root.path()), None);
        assert!(throttled(root.path()).is_empty() && !tells_throttling(root.path()));
    }
}
