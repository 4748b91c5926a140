//! Pictures that a camera gives, made H.264 by a GStreamer encoder, so that viewers, recordings and readers get them like
//! any stream. Which encoders are tried is pure; when one is given up is `run`'s business.

#[cfg(feature = "gst")]
mod gst;

use super::camera::{Given, Pixels};
use crate::board::BoardKind;
use crate::config;
use crate::decode::DecoderReport;

#[cfg(feature = "gst")]
pub(crate) use gst::Encoder;

/// One encoder to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// What users see: the element's name, or the owner's own chain.
    pub(crate) name: String,
    /// From raw pictures to H.264, as gst-launch-1.0 would take it.
    pub(crate) chain: String,
}

/// Every encoder that spotter knows: hardware or not, and what brings it.
const KNOWN: [(&str, bool, &str); 5] = [
    ("v4l2h264enc", true, "gstreamer1.0-plugins-good and a V4L2 codec driver in the kernel"),
    ("nvv4l2h264enc", true, "NVIDIA's JetPack"),
    ("vah264enc", true, "gstreamer1.0-plugins-bad and a VA-API driver"),
    ("x264enc", false, "gstreamer1.0-plugins-ugly"),
    ("openh264enc", false, "gstreamer1.0-plugins-bad"),
];

/// Which of them are there, for `spotter probe`.
pub fn encoders() -> Vec<DecoderReport> {
    #[cfg(feature = "gst")]
    use crate::decode::look_at;
    #[cfg(not(feature = "gst"))]
    let look_at = |_: &str, _: &str| Err(crate::decode::DecodeError::NoGstreamer.to_string());
    let look = |(element, hardware, comes_with)| {
        let (present, detail, driver) = match look_at(element, comes_with) {
            Ok((behind, driver)) => (true, behind, driver),
            Err(why) => (false, why, None),
        };
        DecoderReport { element, codecs: vec!["H.264"], hardware, present, detail, driver }
    };
    KNOWN.map(look).into()
}

/// A key frame so often, seconds: what a viewer who comes waits for at most, and what glasses do.
const KEY_EVERY_S: f64 = 2.0;

/// What to try, best first: the owner's order, else the board's.
pub(crate) fn candidates(board: BoardKind, wish: &config::Source, given: &Given) -> Vec<Candidate> {
    let kbps = match wish.bitrate_kbps {
        0 => usual_kbps(given),
        kbps => kbps,
    };
    let gop = (given.rate_hz * KEY_EVERY_S).round().clamp(1.0, 1000.0) as u32;
    let known = |name: &str| Candidate { name: name.into(), chain: chain(name, kbps, gop) };
    if !wish.encoder.is_empty() {
        return wish.encoder.iter().map(|e| known(e.trim())).collect();
    }
    let hardware: &[&str] = match board {
        BoardKind::Pi3 | BoardKind::Pi4 | BoardKind::Zero2 => &["v4l2h264enc"],
        // Neither Pi 5 nor Orin Nano encodes in hardware; other Orins do.
        BoardKind::JetsonOrin | BoardKind::JetsonOther => &["nvv4l2h264enc"],
        BoardKind::X86 => &["vah264enc"],
        BoardKind::GenericArm64 => &["v4l2h264enc"],
        BoardKind::Pi5 | BoardKind::Other => &[],
    };
    hardware.iter().chain(&["x264enc", "openh264enc"]).map(|name| known(name)).collect()
}

/// A tenth of a bit a pixel: 1.4 Mbit/s for 1280x720 at 15.
fn usual_kbps(given: &Given) -> u32 {
    let pixels = f64::from(given.width) * f64::from(given.height) * given.rate_hz;
    (pixels * 0.1 / 1000.0).clamp(200.0, 20_000.0) as u32
}

/// An encoder with what keeps it quick: no B-frames, no lookahead, a key frame in time. Another name is taken as it is.
fn chain(name: &str, kbps: u32, gop: u32) -> String {
    let bps = kbps * 1000;
    match name {
        "x264enc" => format!(
            "video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=superfast bitrate={kbps} \
             key-int-max={gop} bframes=0 ! video/x-h264,profile=main"
        ),
        "openh264enc" => format!(
            "video/x-raw,format=I420 ! openh264enc complexity=low rate-control=bitrate usage-type=camera \
             bitrate={bps} gop-size={gop}"
        ),
        "v4l2h264enc" => format!(
            "v4l2h264enc extra-controls=\"controls,repeat_sequence_header=1,video_bitrate={bps},\
             h264_i_frame_period={gop}\" ! video/x-h264,level=(string)4"
        ),
        "vah264enc" => format!("vah264enc bitrate={kbps} key-int-max={gop} b-frames=0"),
        "nvv4l2h264enc" => format!(
            "nvvidconv ! nvv4l2h264enc bitrate={bps} iframeinterval={gop} insert-sps-pps=true"
        ),
        own => own.into(),
    }
}

/// What stands before the encoder.
#[cfg_attr(not(feature = "gst"), allow(dead_code, reason = "nothing is encoded in this build"))]
fn front(pixels: Pixels) -> &'static str {
    match pixels {
        Pixels::Mjpeg => "jpegdec ! videoconvert",
        _ => "videoconvert",
    }
}

/// Encodes nothing: for builds without GStreamer.
#[cfg(not(feature = "gst"))]
pub(crate) struct Encoder {
    pub(crate) name: String,
}

#[cfg(not(feature = "gst"))]
impl Encoder {
    pub(crate) fn open(
        _candidate: &Candidate,
        _given: &Given,
        _outlet: std::sync::Arc<super::outlet::Outlet>,
        _source: std::sync::Arc<super::Source>,
    ) -> Result<Self, String> {
        Err("this build has no gstreamer: only cameras that give H.264 work".into())
    }

    pub(crate) fn push(
        &mut self,
        _picture: &[u8],
        _taken: crate::media::Arrival,
    ) -> Result<(), String> {
        Ok(())
    }

    pub(crate) fn failure(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(rate_hz: f64) -> Given {
        let (width, height) = (1280, 720);
        Given { node: "n".into(), pixels: Pixels::Yuyv, width, height, stride: 2560, rate_hz }
    }

    fn wish(text: &str) -> config::Source {
        toml::from_str(&format!("stream = \"a\"\ndevice = \"b\"\n{text}")).unwrap()
    }

    #[test]
    fn hardware_comes_first_and_software_always_last() {
        assert!(encoders().iter().all(|e| !e.detail.is_empty()));
        for (board, first) in [
            (BoardKind::Pi4, "v4l2h264enc"),
            (BoardKind::Pi5, "x264enc"),
            (BoardKind::JetsonOrin, "nvv4l2h264enc"),
            (BoardKind::X86, "vah264enc"),
        ] {
            let all = candidates(board, &wish(""), &given(30.0));
            assert_eq!(all[0].name, first);
            assert_eq!(all.last().unwrap().name, "openh264enc");
        }
    }

    #[test]
    fn rates_are_by_size_unless_wished() {
        let chain =
            |text: &str| candidates(BoardKind::Pi5, &wish(text), &given(15.0))[0].chain.clone();
        let usual = chain("");
        assert!(usual.contains("bitrate=1382 ") && usual.contains("key-int-max=30 "), "{usual}");
        assert!(chain("bitrate_kbps = 800").contains("bitrate=800 "));
        let own = candidates(BoardKind::Pi5, &wish("encoder = [\"myenc ! foo\"]"), &given(15.0));
        assert_eq!((own.len(), own[0].chain.as_str()), (1, "myenc ! foo"));
    }
}
