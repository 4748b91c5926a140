//! Which decoders to try on which board, in which order (pure). Whether they are there is found by trying.

use std::borrow::Cow;

use crate::board::BoardKind;
use crate::config::{self, DecodeBackend, Scaler};
use crate::media::VideoCodec;

/// One decoder to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What users see: the element's name, or the owner's own chain.
    pub name: String,
    /// Elements between the parsed stream and the pictures, as gst-launch-1.0 would take them.
    pub chain: String,
    pub hardware: bool,
    /// Takes length-prefixed NAL units as published, so that no parser must convert them.
    pub takes_published: bool,
    /// What makes pictures as small as the detector wants them, behind the chain; none: the detector does.
    pub scaler: Option<&'static str>,
}

/// A decoder element that spotter knows.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub name: &'static str,
    pub codecs: &'static [VideoCodec],
    pub hardware: bool,
    /// What must follow to get NV12 or I420 in memory the processor reads.
    after: &'static str,
    /// Scales and converts in the decoder's kind of memory, in place of `after`.
    scaler: &'static str,
    takes_published: bool,
    /// What a user installs, or has, to get it.
    pub comes_with: &'static str,
}

const H264: &[VideoCodec] = &[VideoCodec::H264];
const H265: &[VideoCodec] = &[VideoCodec::H265];
const BOTH: &[VideoCodec] = &[VideoCodec::H264, VideoCodec::H265];

const V4L2: &str = "gstreamer1.0-plugins-good and a V4L2 codec driver in the kernel";
const V4L2_STATELESS: &str = "gstreamer1.0-plugins-bad and a stateless V4L2 codec driver";
const VA: &str = "gstreamer1.0-plugins-bad and a VA-API driver";
const LIBAV: &str = "gstreamer1.0-libav";
const BAD: &str = "gstreamer1.0-plugins-bad";

/// Every decoder element spotter knows, in the order of [`BoardKind::Other`].
pub const KNOWN: &[Known] = &[
    hardware("nvv4l2decoder", BOTH, " ! nvvidconv", "nvvidconv", "NVIDIA's JetPack"),
    hardware("v4l2h264dec", H264, "", "v4l2convert", V4L2),
    hardware("v4l2h265dec", H265, "", "v4l2convert", V4L2),
    hardware("v4l2slh264dec", H264, "", "v4l2convert", V4L2_STATELESS),
    hardware("v4l2slh265dec", H265, "", "v4l2convert", V4L2_STATELESS),
    hardware("vah264dec", H264, "", "vapostproc", VA),
    hardware("vah265dec", H265, "", "vapostproc", VA),
    software("avdec_h264", H264, true, LIBAV),
    software("avdec_h265", H265, true, LIBAV),
    software("openh264dec", H264, false, BAD),
    software("libde265dec", H265, false, BAD),
];

const fn hardware(
    name: &'static str,
    codecs: &'static [VideoCodec],
    after: &'static str,
    scaler: &'static str,
    comes_with: &'static str,
) -> Known {
    Known { name, codecs, hardware: true, after, scaler, takes_published: false, comes_with }
}

const fn software(
    name: &'static str,
    codecs: &'static [VideoCodec],
    takes_published: bool,
    comes_with: &'static str,
) -> Known {
    let scaler = "videoconvertscale";
    Known { name, codecs, hardware: false, after: "", scaler, takes_published, comes_with }
}

/// Every scaler that spotter knows, each with whether it is the board's.
pub fn scalers() -> Vec<(&'static str, bool)> {
    let mut all: Vec<_> = KNOWN.iter().map(|k| (k.scaler, k.hardware)).collect();
    all.dedup();
    all
}

impl Known {
    fn candidate(&self) -> Candidate {
        Candidate {
            name: self.name.into(),
            chain: format!("{}{}", self.name, self.after),
            hardware: self.hardware,
            takes_published: self.takes_published,
            scaler: None,
        }
    }

    /// The same with the scaler that belongs to it.
    fn scaled(&self) -> Candidate {
        Candidate {
            name: format!("{} + {}", self.name, self.scaler),
            chain: self.name.into(),
            scaler: Some(self.scaler),
            ..self.candidate()
        }
    }
}

/// What to try for one codec, best first: the owner's order, else the board's.
pub fn candidates(board: BoardKind, codec: VideoCodec, cfg: &config::Decode) -> Vec<Candidate> {
    if cfg.backend == DecodeBackend::Fake {
        let name = String::from("fake");
        return vec![Candidate {
            chain: name.clone(),
            name,
            hardware: false,
            takes_published: true,
            scaler: None,
        }];
    }
    if !cfg.order.is_empty() {
        let own = cfg.order.iter().filter(|e| suits(e, codec)).map(|e| named(e)).collect();
        return with_scalers(own, cfg.scaler);
    }
    let mut found: Vec<_> = board_order(board)
        .iter()
        .filter_map(|name| KNOWN.iter().find(|k| k.name == *name))
        .filter(|k| k.codecs.contains(&codec))
        .map(Known::candidate)
        .collect();
    // Ten-bit and 4:2:2 streams come out of libav in formats that need a conversion; only they should pay for it.
    if let Some(libav) = found.iter().position(|c| c.name.starts_with("avdec_")) {
        let converted = named(&format!("{} ! videoconvert", found[libav].name));
        found.insert(libav + 1, converted);
    }
    with_scalers(found, cfg.scaler)
}

/// Before each decoder the same with its scaler, where that is wanted: what cannot be had is refused, and the next is tried.
fn with_scalers(found: Vec<Candidate>, scaler: Scaler) -> Vec<Candidate> {
    let scaled = |c: &Candidate| {
        let known = KNOWN.iter().find(|k| k.name == c.name)?;
        let wanted = match scaler {
            Scaler::Auto => known.hardware,
            Scaler::Board => true,
            Scaler::Cpu => false,
        };
        wanted.then(|| known.scaled())
    };
    found.into_iter().flat_map(|c| [scaled(&c), Some(c)]).flatten().collect()
}

/// Hardware first where the board has it (see docs/boards.md), then software.
fn board_order(board: BoardKind) -> Cow<'static, [&'static str]> {
    const SOFTWARE: [&str; 4] = ["avdec_h264", "avdec_h265", "openh264dec", "libde265dec"];
    let hardware: &[&str] = match board {
        BoardKind::Pi3 | BoardKind::Zero2 => &["v4l2h264dec"],
        BoardKind::Pi4 => &["v4l2h264dec", "v4l2slh265dec"],
        // No H.264 block at all.
        BoardKind::Pi5 => &["v4l2slh265dec"],
        BoardKind::JetsonOrin | BoardKind::JetsonOther => &["nvv4l2decoder"],
        BoardKind::GenericArm64 => {
            &["v4l2h264dec", "v4l2h265dec", "v4l2slh264dec", "v4l2slh265dec"]
        }
        BoardKind::X86 => &["vah264dec", "vah265dec"],
        BoardKind::Other => return KNOWN.iter().map(|k| k.name).collect(),
    };
    hardware.iter().copied().chain(SOFTWARE).collect()
}

/// An entry of `decode.order`: a known element's name, or a chain as gst-launch-1.0 takes it.
fn named(entry: &str) -> Candidate {
    let entry = entry.trim();
    if let Some(known) = KNOWN.iter().find(|k| k.name == entry) {
        return known.candidate();
    }
    Candidate {
        name: entry.into(),
        chain: entry.into(),
        hardware: KNOWN.iter().any(|k| k.hardware && entry.contains(k.name)),
        takes_published: entry.starts_with("avdec_"),
        scaler: None,
    }
}

/// One order serves both codecs: an entry that names the other one is passed over.
fn suits(entry: &str, codec: VideoCodec) -> bool {
    let (h264, h265) = (entry.contains("264"), entry.contains("265") || entry.contains("hevc"));
    match codec {
        VideoCodec::H264 => h264 || !h265,
        VideoCodec::H265 => h265 || !h264,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(board: BoardKind, codec: VideoCodec, order: &[&str]) -> Vec<String> {
        let order = order.iter().map(|s| s.to_string()).collect();
        let (backend, scaler) = (DecodeBackend::Gst, Scaler::Cpu);
        let cfg = config::Decode { backend, order, scaler, threads: 1 };
        candidates(board, codec, &cfg).into_iter().map(|c| c.name).collect()
    }

    #[test]
    fn hardware_comes_first_where_the_board_has_it() {
        use BoardKind::*;
        assert_eq!(names(Pi4, VideoCodec::H264, &[])[..2], ["v4l2h264dec", "avdec_h264"]);
        assert_eq!(names(Pi5, VideoCodec::H264, &[])[0], "avdec_h264");
        assert_eq!(names(Pi5, VideoCodec::H265, &[])[0], "v4l2slh265dec");
        assert_eq!(names(JetsonOrin, VideoCodec::H265, &[])[..2], ["nvv4l2decoder", "avdec_h265"]);
        assert_eq!(names(X86, VideoCodec::H264, &[])[..2], ["vah264dec", "avdec_h264"]);
    }

    #[test]
    fn every_board_can_fall_back_to_software_for_both_codecs() {
        use BoardKind::*;
        let all = [Pi3, Pi4, Pi5, Zero2, JetsonOrin, JetsonOther, GenericArm64, X86, Other];
        for board in all {
            for (codec, libav) in
                [(VideoCodec::H264, "avdec_h264"), (VideoCodec::H265, "avdec_h265")]
            {
                let names = names(board, codec, &[]);
                assert!(names.contains(&libav.to_string()), "{board:?}: {names:?}");
                assert!(names.contains(&format!("{libav} ! videoconvert")), "{board:?}: {names:?}");
            }
        }
    }

    #[test]
    fn the_owner_s_order_stands_and_serves_both_codecs() {
        let order = ["nosuchdec", "avdec_h265", "identity ! avdec_h264"];
        let of = |codec| names(BoardKind::X86, codec, &order);
        assert_eq!(of(VideoCodec::H264), ["nosuchdec", "identity ! avdec_h264"]);
        assert_eq!(of(VideoCodec::H265), ["nosuchdec", "avdec_h265"]);
    }

    #[test]
    fn a_scaler_goes_before_the_same_without_and_belongs_to_the_decoder() {
        let names = |board, scaler| {
            let cfg = config::Decode { scaler, ..config::Decode::default() };
            let cfg = config::Decode { backend: DecodeBackend::Gst, ..cfg };
            let all = candidates(board, VideoCodec::H264, &cfg);
            all.into_iter().map(|c| (c.name, c.scaler)).take(3).collect::<Vec<_>>()
        };
        let is = |name: &str, scaler| (name.to_owned(), scaler);
        assert_eq!(
            names(BoardKind::Pi4, Scaler::Auto),
            [
                is("v4l2h264dec + v4l2convert", Some("v4l2convert")),
                is("v4l2h264dec", None),
                is("avdec_h264", None),
            ]
        );
        assert_eq!(
            names(BoardKind::Pi5, Scaler::Board)[..2],
            [
                is("avdec_h264 + videoconvertscale", Some("videoconvertscale")),
                is("avdec_h264", None)
            ]
        );
        assert!(names(BoardKind::X86, Scaler::Cpu).iter().all(|(_, scaler)| scaler.is_none()));
        let jetson = KNOWN.iter().find(|k| k.name == "nvv4l2decoder").unwrap().scaled();
        assert_eq!((jetson.chain.as_str(), jetson.scaler), ("nvv4l2decoder", Some("nvvidconv")));
    }

    #[test]
    fn a_known_name_brings_its_converter() {
        let jetson = named("nvv4l2decoder");
        assert_eq!(jetson.chain, "nvv4l2decoder ! nvvidconv");
        assert!(jetson.hardware && !jetson.takes_published);
    }
}
