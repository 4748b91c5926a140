//! How warm the machine is and whether it holds its processor back. It reads; it does not act.

use std::path::Path;

use super::{entries, text};

/// The warmest thermal zone in degrees Celsius.
pub fn temperature_c(root: &Path) -> Option<f32> {
    let class = root.join("sys/class/thermal");
    let zones = entries(&class).into_iter().filter(|n| n.starts_with("thermal_zone"));
    let millis = zones.filter_map(|z| text(&class.join(z).join("temp"))?.parse::<i32>().ok());
    // Zones that are off report zero or nonsense below it.
    millis.filter(|m| (1..200_000).contains(m)).max().map(|m| m as f32 / 1000.0)
}

/// What slows the processor now, in words; empty when nothing does or the machine does not tell.
pub fn throttled(root: &Path) -> Vec<String> {
    let firmware = text(&root.join("sys/devices/platform/soc/soc:firmware/get_throttled"));
    if let Some(bits) =
        firmware.and_then(|t| u32::from_str_radix(t.trim_start_matches("0x"), 16).ok())
    {
        return pi_throttled(bits);
    }
    cooling(root)
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
    let class = root.join("sys/class/thermal");
    let devices = entries(&class).into_iter().filter(|n| n.starts_with("cooling_device"));
    let active = devices.filter_map(|device| {
        let kind = text(&class.join(&device).join("type"))?;
        let state = text(&class.join(&device).join("cur_state"))?.parse::<u32>().ok()?;
        let processor = kind.contains("cpufreq") || kind == "Processor";
        (processor && state > 0).then(|| format!("{kind} cooling at step {state}"))
    });
    active.collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::machine;
    use super::*;

    #[test]
    fn the_warmest_zone_counts() {
        let root = machine(&[
            ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
            ("sys/class/thermal/thermal_zone1/temp", "61500\n"),
            ("sys/class/thermal/thermal_zone2/temp", "-274000\n"),
            ("sys/class/thermal/cooling_device0/type", "thermal-cpufreq-0\n"),
            ("sys/class/thermal/cooling_device0/cur_state", "2\n"),
            ("sys/class/thermal/cooling_device1/type", "pwm-fan\n"),
            ("sys/class/thermal/cooling_device1/cur_state", "3\n"),
        ]);
        assert_eq!(temperature_c(root.path()), Some(61.5));
        assert_eq!(throttled(root.path()), ["thermal-cpufreq-0 cooling at step 2"]);
    }

    #[test]
    fn a_pi_tells_by_its_firmware() {
        let file = "sys/devices/platform/soc/soc:firmware/get_throttled";
        assert_eq!(
            throttled(machine(&[(file, "50005\n")]).path()),
            ["supply voltage too low", "throttled"]
        );
        assert!(throttled(machine(&[(file, "50000\n")]).path()).is_empty());
        assert!(throttled(machine(&[(file, "rubbish")]).path()).is_empty());
    }

    #[test]
    fn a_machine_without_sensors_says_nothing() {
        let root = machine(&[]);
        assert_eq!(temperature_c(root.path()), None);
        assert!(throttled(root.path()).is_empty());
    }
}
