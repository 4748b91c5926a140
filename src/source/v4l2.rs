//! Cameras behind Video4Linux, by the `v4l` crate: finding one, settling on a format, taking pictures out of mapped
//! buffers. What is taken of what is offered is decided in `choose.rs`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use v4l::buffer::{Flags as BufferFlags, Type};
use v4l::capability::{Capabilities, Flags};
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::io::mmap::Stream;
use v4l::io::traits::CaptureStream;
use v4l::video::Capture;
use v4l::video::capture::Parameters;
use v4l::{Device, Format, FourCC, Fraction};

use super::camera::{
    Camera, CameraError, CameraReport, FormatReport, Given, Pixels, Quality, Taken,
};
use super::choose::{self, Offer, Sizes, Steps};
use crate::config::Source;

/// Mapped buffers: one is looked at while the driver fills the others.
const BUFFERS: u32 = 4;
/// A camera that gives nothing for so long is opened anew.
const SILENT: Duration = Duration::from_secs(4);
/// How long `next` waits at most, so that the thread hears that it is to end.
const PATIENCE_MS: i32 = 200;

pub(crate) struct V4l2Camera {
    given: Given,
    stream: Stream<'static>,
    /// The driver has all buffers but the one that was looked at last.
    running: bool,
    last: Instant,
}

impl V4l2Camera {
    pub(crate) fn open(config: &Source) -> Result<Self, CameraError> {
        let node = find(&config.device)?;
        let name = node.display().to_string();
        let wrong = |e: io::Error| explain(&name, &e);
        let device = Device::with_path(&node).map_err(wrong)?;
        let capabilities = device.query_caps().map_err(wrong)?;
        if let Some(reason) = unfit(&capabilities) {
            return Err(CameraError::Unfit(format!("{name} {reason}: see `spotter probe`")));
        }
        let (offers, others) = offers(&device, config).map_err(wrong)?;
        let choice = choose::choose(&offers, &others, config)
            .map_err(|why| CameraError::Unfit(format!("{name} {why}")))?;
        let asked = Format::new(choice.width, choice.height, FourCC::new(&choice.fourcc));
        let format = device.set_format(&asked).map_err(wrong)?;
        let pixels = Pixels::of_fourcc(&format.fourcc.repr).ok_or_else(|| {
            CameraError::Unfit(format!("{name} gives {} in the end", format.fourcc))
        })?;
        let rate_hz = rate(&device, config.rate_hz);
        let stream = Stream::with_buffers(&device, Type::VideoCapture, BUFFERS).map_err(wrong)?;
        let given = Given {
            node: name.clone(),
            pixels,
            width: format.width,
            height: format.height,
            stride: format.stride,
            rate_hz,
        };
        Ok(Self { given, stream, running: false, last: Instant::now() })
    }
}

impl Camera for V4l2Camera {
    fn given(&self) -> &Given {
        &self.given
    }

    fn next(&mut self) -> Result<Option<Taken<'_>>, CameraError> {
        let name = &self.given.node;
        if self.running {
            // The crate gives a buffer back before it waits, and would do so twice after a time-out: so the wait is here.
            let ready = self.stream.handle().poll(libc::POLLIN, PATIENCE_MS);
            if ready.map_err(|e| explain(name, &e))? == 0 {
                if self.last.elapsed() > SILENT {
                    return Err(CameraError::Silent(name.clone(), SILENT.as_secs()));
                }
                return Ok(None);
            }
        }
        self.stream.set_timeout(SILENT);
        self.running = true;
        let (data, meta) = match self.stream.next() {
            Ok(taken) => taken,
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                return Err(CameraError::Silent(name.clone(), SILENT.as_secs()));
            }
            Err(e) => return Err(explain(name, &e)),
        };
        self.last = Instant::now();
        let monotonic =
            (meta.flags & BufferFlags::TIMESTAMP_MASK) == BufferFlags::TIMESTAMP_MONOTONIC;
        let seconds = u64::try_from(meta.timestamp.sec).unwrap_or(0);
        let micros = u64::try_from(meta.timestamp.usec).unwrap_or(0);
        let at = Duration::from_secs(seconds) + Duration::from_micros(micros);
        let used = (meta.bytesused as usize).min(data.len());
        let damaged = meta.flags.contains(BufferFlags::ERROR) || used == 0;
        Ok(Some(Taken {
            data: &data[..used],
            at: monotonic.then_some(at),
            sequence: meta.sequence,
            quality: if damaged { Quality::Damaged } else { Quality::Whole },
        }))
    }
}

/// The node of a path, or of the first camera with that name.
fn find(device: &str) -> Result<PathBuf, CameraError> {
    let absent = || CameraError::Absent(device.to_owned());
    if device.starts_with('/') {
        // Below by-id are links, which come and go with the camera.
        return fs::canonicalize(device).map_err(|_| absent());
    }
    let is_it = |node: &&PathBuf| {
        let called = card(node).is_some_and(|name| name == device);
        // A webcam has more nodes of its name, of which one gives pictures.
        called
            && Device::with_path(node)
                .and_then(|d| d.query_caps())
                .is_ok_and(|c| unfit(&c).is_none())
    };
    let nodes = nodes();
    // While another program has it, it still tells what it is.
    nodes.iter().find(is_it).cloned().ok_or_else(absent)
}

fn nodes() -> Vec<PathBuf> {
    let Ok(class) = fs::read_dir("/sys/class/video4linux") else { return Vec::new() };
    let names = class.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|n| n.starts_with("video")).collect();
    names.sort_by_key(|n| (n.len(), n.clone()));
    names.into_iter().map(|n| Path::new("/dev").join(n)).collect()
}

fn card(node: &Path) -> Option<String> {
    let file = Path::new("/sys/class/video4linux").join(node.file_name()?).join("name");
    fs::read_to_string(file).ok().map(|name| name.trim().to_owned())
}

/// Why a node gives no pictures to us.
fn unfit(capabilities: &Capabilities) -> Option<&'static str> {
    let has = capabilities.capabilities;
    if has.intersects(Flags::VIDEO_M2M | Flags::VIDEO_M2M_MPLANE) {
        return Some("is a codec and no camera");
    }
    if has.contains(Flags::VIDEO_CAPTURE) {
        let streams = has.contains(Flags::STREAMING);
        return (!streams).then_some("does not give its pictures in mapped memory");
    }
    if has.contains(Flags::VIDEO_CAPTURE_MPLANE) {
        return Some("gives pictures in several pieces of memory, which spotter does not take");
    }
    Some("gives no pictures")
}

/// What of a camera's formats we take, and the names of the others.
fn offers(device: &Device, wish: &Source) -> io::Result<(Vec<Offer>, Vec<String>)> {
    let (mut offers, mut others) = (Vec::new(), Vec::new());
    for format in device.enum_formats()? {
        let Some(pixels) = Pixels::of_fourcc(&format.fourcc.repr) else {
            others.push(format.fourcc.to_string());
            continue;
        };
        let sizes = sizes(device, format.fourcc);
        if sizes.is_empty() {
            // Drivers that do not list sizes take any near one.
            let any = Steps { least: 16, most: 8192, step: 2 };
            let sizes = Sizes::Steps { width: any, height: any };
            offers.push(Offer { pixels, fourcc: format.fourcc.repr, sizes, rates_hz: Vec::new() });
        }
        for sizes in sizes {
            let (w, h) = match sizes {
                Sizes::One(w, h) => (w, h),
                Sizes::Steps { .. } => (wish.width, wish.height),
            };
            let rates_hz = rates(device, format.fourcc, w, h);
            offers.push(Offer { pixels, fourcc: format.fourcc.repr, sizes, rates_hz });
        }
    }
    Ok((offers, others))
}

fn sizes(device: &Device, fourcc: FourCC) -> Vec<Sizes> {
    let listed = device.enum_framesizes(fourcc).unwrap_or_default();
    let size = |size: FrameSizeEnum| match size {
        FrameSizeEnum::Discrete(d) => Sizes::One(d.width, d.height),
        FrameSizeEnum::Stepwise(s) => Sizes::Steps {
            width: Steps { least: s.min_width, most: s.max_width, step: s.step_width },
            height: Steps { least: s.min_height, most: s.max_height, step: s.step_height },
        },
    };
    listed.into_iter().map(|s| size(s.size)).collect()
}

fn rates(device: &Device, fourcc: FourCC, width: u32, height: u32) -> Vec<f64> {
    let hz = |f: &Fraction| {
        let (n, d) = (f64::from(f.numerator), f64::from(f.denominator));
        (n > 0.0 && d > 0.0).then(|| d / n)
    };
    let listed = device.enum_frameintervals(fourcc, width, height).unwrap_or_default();
    let rate = |interval: FrameIntervalEnum| match interval {
        FrameIntervalEnum::Discrete(f) => hz(&f),
        // The shortest interval is the greatest rate.
        FrameIntervalEnum::Stepwise(s) => hz(&s.min),
    };
    listed.into_iter().filter_map(|i| rate(i.interval)).collect()
}

/// Asks for a rate; a driver that has none of its own keeps what it does.
fn rate(device: &Device, wish_hz: f64) -> f64 {
    let wish = Parameters::new(Fraction::new(1000, (wish_hz * 1000.0).round().max(1.0) as u32));
    let got = device.set_params(&wish).or_else(|_| device.params());
    let interval = got.map(|p| (p.interval.numerator, p.interval.denominator));
    match interval {
        Ok((n, d)) if n > 0 && d > 0 => f64::from(d) / f64::from(n),
        _ => wish_hz,
    }
}

fn explain(name: &str, error: &io::Error) -> CameraError {
    let name = name.to_owned();
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => CameraError::Gone(name),
        Some(libc::EBUSY) => CameraError::Busy(name),
        Some(libc::EACCES | libc::EPERM) => CameraError::Refused(name),
        Some(libc::ENOENT) => CameraError::Absent(name),
        _ => CameraError::Failed(name, error.to_string()),
    }
}

/// Every video node for `spotter probe`.
pub(super) fn report() -> Vec<CameraReport> {
    let one = |node: PathBuf| {
        let name = card(&node).unwrap_or_default();
        let empty = CameraReport {
            node: node.display().to_string(),
            name,
            driver: String::new(),
            bus: String::new(),
            by_id: by_id(&node),
            formats: Vec::new(),
            reason: None,
        };
        // The crate panics where a driver's text is no UTF-8.
        let looked = std::panic::catch_unwind(|| look(&node));
        match looked.unwrap_or_else(|_| Err("tells nonsense of itself".into())) {
            Ok((caps, formats)) => CameraReport {
                driver: caps.driver.clone(),
                bus: caps.bus.clone(),
                reason: unfit(&caps).map(String::from),
                formats,
                ..empty
            },
            Err(reason) => CameraReport { reason: Some(reason), ..empty },
        }
    };
    nodes().into_iter().map(one).collect()
}

fn look(node: &Path) -> Result<(Capabilities, Vec<FormatReport>), String> {
    let name = node.display().to_string();
    let wrong = |e: io::Error| explain(&name, &e).to_string();
    let device = Device::with_path(node).map_err(wrong)?;
    let caps = device.query_caps().map_err(wrong)?;
    if unfit(&caps).is_some() {
        return Ok((caps, Vec::new()));
    }
    let format = |fourcc: FourCC| FormatReport {
        fourcc: fourcc.to_string(),
        usable: Pixels::of_fourcc(&fourcc.repr).is_some(),
        sizes: sizes(&device, fourcc).into_iter().map(|s| said(&device, fourcc, s)).collect(),
    };
    let formats = device.enum_formats().map_err(wrong)?;
    Ok((caps, formats.into_iter().map(|f| format(f.fourcc)).collect()))
}

fn said(device: &Device, fourcc: FourCC, sizes: Sizes) -> String {
    match sizes {
        Sizes::One(w, h) => match rates(device, fourcc, w, h).into_iter().reduce(f64::max) {
            Some(rate) => format!("{w}x{h} up to {}/s", (rate * 10.0).round() / 10.0),
            None => format!("{w}x{h}"),
        },
        Sizes::Steps { width: w, height: h } => {
            format!("{}x{} to {}x{}", w.least, h.least, w.most, h.most)
        }
    }
}

/// The path that udev gives a camera by its maker and serial number.
fn by_id(node: &Path) -> Option<String> {
    let links = fs::read_dir("/dev/v4l/by-id").ok()?.flatten().map(|e| e.path());
    let mut mine = links.filter(|link| fs::canonicalize(link).is_ok_and(|to| to == node));
    mine.next().map(|link| link.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        let of = |errno| explain("/dev/video9", &io::Error::from_raw_os_error(errno));
        assert_eq!(of(libc::ENODEV), CameraError::Gone("/dev/video9".into()));
        assert_eq!(of(libc::EBUSY), CameraError::Busy("/dev/video9".into()));
        assert!(of(libc::EACCES).to_string().contains("group video"));
        assert!(matches!(of(libc::EINVAL), CameraError::Failed(..)));
    }

    #[test]
    fn what_is_not_there_is_absent_and_what_is_no_camera_is_said() {
        let open = |device: &str| {
            let text = format!("stream = \"a\"\ndevice = \"{device}\"\n");
            V4l2Camera::open(&toml::from_str(&text).unwrap()).err().unwrap()
        };
        assert!(matches!(open("/dev/v4l/by-id/no-such"), CameraError::Absent(_)));
        assert!(matches!(open("No Such Camera"), CameraError::Absent(_)));
        assert!(matches!(open("/dev/null"), CameraError::Failed(..)));
    }
}
