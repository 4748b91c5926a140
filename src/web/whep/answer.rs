//! An SDP offer judged and answered. No media flows here and nothing waits.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use str0m::change::SdpOffer;
use str0m::format::Codec;
use str0m::media::{MediaKind, Mid, Pt};
use str0m::rtp::{Extension, ExtensionMap};
use str0m::{Candidate, IceCreds, Rtc, RtcConfig};

/// Longest offer, bytes; browsers' have 5,000 to 10,000.
const MAX_OFFER: usize = 64 << 10;
/// Media sections of an offer; each costs time.
const MAX_SECTIONS: usize = 16;

/// One medium of the session and the payload type it is sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Track {
    pub(super) mid: Mid,
    pub(super) pt: Pt,
}

/// Which way the media flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToViewer,
    FromPublisher,
}

/// A session that waits for its publisher.
#[derive(Debug)]
pub(super) struct Welcomed {
    pub(super) rtc: Rtc,
    pub(super) video: Mid,
    pub(super) answer: String,
    pub(super) ufrag: String,
    pub(super) remote_ufrag: String,
}

/// A session that waits for its viewer.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) rtc: Rtc,
    pub(super) video: Track,
    pub(super) audio: Option<Track>,
    pub(super) answer: String,
    /// Our half of the STUN user name, by which the viewer's first packets are known.
    pub(super) ufrag: String,
    /// The viewer's half, which trickled candidates name.
    pub(super) remote_ufrag: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::web) enum Unfit {
    #[error("the SDP offer is of no use: {0}")]
    BadSdp(String),
    #[error("the offer receives no H.264 with packetization-mode=1: use the MSE or HLS view")]
    NoH264,
    #[error("the offer sends no H.264 with packetization-mode=1: publish that, or by RTMP or SRT")]
    SendsNoH264,
}

/// Answers `offer` as an ICE-lite server that is found at `candidates`, for H.264 of this profile_idc. Opus is always
/// agreed on, sent or not: a refused first medium leaves browsers without candidates.
pub(super) fn answer(offer: &str, profile: u8, candidates: &[SocketAddr]) -> Result<Agreed, Unfit> {
    // The parser is another's and reads what strangers send; a panic in it is one bad offer, no more.
    let judged = catch_unwind(AssertUnwindSafe(|| judge(offer, profile, candidates)));
    judged.unwrap_or_else(|_| Err(bad("it confuses the parser")))
}

/// Answers the `offer` of one who publishes, likewise.
pub(super) fn welcome(offer: &str, candidates: &[SocketAddr]) -> Result<Welcomed, Unfit> {
    let judged = catch_unwind(AssertUnwindSafe(|| {
        let Begun { rtc, answer, ufrag, remote_ufrag } =
            begin(offer, Way::FromPublisher, candidates)?;
        let video = mids(&answer).find(|mid| receives_h264(&rtc, *mid));
        let video = video.ok_or(Unfit::SendsNoH264)?;
        Ok(Welcomed { rtc, video, answer, ufrag, remote_ufrag })
    }));
    judged.unwrap_or_else(|_| Err(bad("it confuses the parser")))
}

fn bad(why: impl ToString) -> Unfit {
    // A stranger's text must not become a long line of log.
    Unfit::BadSdp(why.to_string().chars().take(200).collect())
}

fn judge(offer: &str, profile: u8, candidates: &[SocketAddr]) -> Result<Agreed, Unfit> {
    let Begun { rtc, answer, ufrag, remote_ufrag } = begin(offer, Way::ToViewer, candidates)?;
    let tracks: Vec<_> = mids(&answer).filter_map(|mid| track(&rtc, mid, profile)).collect();
    let first = |kind| tracks.iter().find(|(k, _)| *k == kind).map(|(_, track)| *track);
    let video = first(MediaKind::Video).ok_or(Unfit::NoH264)?;
    let audio = first(MediaKind::Audio);
    Ok(Agreed { rtc, video, audio, answer, ufrag, remote_ufrag })
}

struct Begun {
    rtc: Rtc,
    answer: String,
    ufrag: String,
    remote_ufrag: String,
}

fn begin(offer: &str, way: Way, candidates: &[SocketAddr]) -> Result<Begun, Unfit> {
    let sections = offer.lines().filter(|line| line.starts_with("m=")).count();
    if offer.len() > MAX_OFFER || sections > MAX_SECTIONS {
        return Err(bad("it is too long"));
    }
    let remote_ufrag = attribute(offer, "ice-ufrag").ok_or_else(|| bad("it has no a=ice-ufrag"))?;
    let parsed = SdpOffer::from_sdp_string(&without_candidates(offer)).map_err(bad)?;
    let creds = IceCreds::new();
    let ufrag = creds.ufrag.clone();
    let mut rtc = config(way).set_local_ice_credentials(creds).build(Instant::now());
    for address in candidates {
        rtc.add_local_candidate(Candidate::host(*address, "udp").map_err(bad)?);
    }
    let answer = rtc.sdp_api().accept_offer(parsed).map_err(bad)?.to_sdp_string();
    // A refused medium still needs one format in its line (RFC 8866 9), which str0m leaves out.
    let answer = answer.replace("/SAVPF \r\n", "/SAVPF 0\r\n");
    Ok(Begun { rtc, answer, ufrag, remote_ufrag: remote_ufrag.to_owned() })
}

/// Pictures held back for a packet that comes late or again; more is only delay.
const REORDER_PICTURES: usize = 8;

fn config(way: Way) -> RtcConfig {
    let mut extensions = ExtensionMap::empty();
    extensions.set(4, Extension::RtpMid);
    // Lets the browser show a picture when it comes instead of when its own buffer says.
    extensions.set(5, Extension::PlayoutDelay);
    let mut config = RtcConfig::new()
        .set_ice_lite(true)
        // Pictures are cut into packets by us, and put together by str0m.
        .set_rtp_mode(way == Way::ToViewer)
        .set_reordering_size_video(REORDER_PICTURES)
        .set_extension_map(extensions)
        .clear_codecs()
        .enable_opus(true, false);
    // Payload types and their retransmission's, as the browsers' own; the offer's replace them.
    for (pt, resend, profile_level) in [
        (108, 109, 0x42_e0_1f),
        (127, 121, 0x42_00_1f),
        (123, 119, 0x4d_00_1f),
        (114, 115, 0x64_00_1f),
        (35, 36, 0x64_0c_1f),
        (41, 42, 0xf4_00_1f),
    ] {
        let codecs = config.codec_config();
        codecs.add_h264(
            Pt::new_with_value(pt),
            Some(Pt::new_with_value(resend)),
            true,
            profile_level,
        );
    }
    config
}

/// The viewer's addresses are learned from its checks, as an ICE-lite server does (RFC 8445 2.5), and browsers hide
/// them behind mDNS names anyway.
fn without_candidates(offer: &str) -> String {
    let kept = offer.lines().filter(|line| {
        !line.starts_with("a=candidate:") && !line.starts_with("a=end-of-candidates")
    });
    kept.flat_map(|line| [line, "\r\n"]).collect()
}

/// The value of the first `a=name:value` line.
pub(in crate::web) fn attribute<'a>(sdp: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':');
    sdp.lines().find_map(value).map(str::trim)
}

fn mids(answer: &str) -> impl Iterator<Item = Mid> {
    answer.lines().filter_map(|line| line.strip_prefix("a=mid:")).map(Mid::from)
}

/// What `mid` can send, if anything, as the payload type nearest to the stream's profile. Browsers decode other profiles
/// than the one they name, so the nearest is good enough.
fn track(rtc: &Rtc, mid: Mid, profile: u8) -> Option<(MediaKind, Track)> {
    let media = rtc.media(mid)?;
    if !media.direction().is_sending() {
        return None;
    }
    let offered =
        rtc.codec_config().params().iter().filter(|p| media.remote_pts().contains(&p.pt()));
    let fits = offered.filter(|p| matches!(p.spec().codec, Codec::H264 | Codec::Opus));
    let nearest = fits.min_by_key(|p| {
        // profile_idc, constraints and level, a byte each (RFC 6184 8.1).
        let [_, idc, ..] = p.spec().format.profile_level_id.unwrap_or_default().to_be_bytes();
        rank(idc).abs_diff(rank(profile))
    })?;
    Some((media.kind(), Track { mid, pt: nearest.pt() }))
}

fn receives_h264(rtc: &Rtc, mid: Mid) -> bool {
    let Some(media) = rtc.media(mid) else { return false };
    let mut params = rtc.codec_config().params().iter();
    media.kind() == MediaKind::Video
        && media.direction().is_receiving()
        && params.any(|p| p.spec().codec == Codec::H264 && media.remote_pts().contains(&p.pt()))
}

/// Profiles by what they ask of a decoder: baseline, main, high and above.
fn rank(profile_idc: u8) -> u8 {
    match profile_idc {
        66 => 0,
        77 | 88 => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OFFER: &str = include_str!("../../../tests/data/whep/chromium.sdp");
    const MAIN: u8 = 77;

    fn here() -> [SocketAddr; 1] {
        ["127.0.0.1:8080".parse().unwrap()]
    }

    #[test]
    fn a_browser_s_offer_is_answered() {
        let agreed = answer(OFFER, MAIN, &here()).unwrap();
        for line in
            ["a=ice-lite", "127.0.0.1 8080 typ host", "H264/90000", "a=sendonly", "opus/48000"]
        {
            assert!(agreed.answer.contains(line), "{line} is not in\n{}", agreed.answer);
        }
        assert!(agreed.audio.is_some());
        let pt = format!("a=fmtp:{} ", *agreed.video.pt);
        let fmtp = agreed.answer.lines().find(|l| l.starts_with(&pt)).unwrap();
        assert!(fmtp.contains("4d001f") && fmtp.contains("packetization-mode=1"), "{fmtp}");
        assert_eq!(attribute(OFFER, "ice-ufrag"), Some(&*agreed.remote_ufrag));
        let silent = answer(&OFFER.replace("opus/", "x/"), MAIN, &here()).unwrap();
        assert_eq!(silent.audio, None);
        assert!(silent.answer.contains("m=audio 0 UDP/TLS/RTP/SAVPF 0\r\n"), "{}", silent.answer);
    }

    #[test]
    fn an_offer_without_h264_is_refused() {
        let other = OFFER.replace("H264/90000", "H263/90000");
        assert_eq!(answer(&other, MAIN, &here()).unwrap_err(), Unfit::NoH264);
        let whole = OFFER.replace("packetization-mode=1", "packetization-mode=0");
        assert_eq!(answer(&whole, MAIN, &here()).unwrap_err(), Unfit::NoH264);
        let sends = OFFER.replace("a=recvonly", "a=sendonly");
        assert_eq!(answer(&sends, MAIN, &here()).unwrap_err(), Unfit::NoH264);
    }

    #[test]
    fn one_who_sends_is_welcomed() {
        let offer = OFFER.replace("a=recvonly", "a=sendonly");
        let welcomed = welcome(&offer, &here()).unwrap();
        for line in ["a=ice-lite", "H264/90000", "a=recvonly", "opus/48000", "nack pli"] {
            assert!(welcomed.answer.contains(line), "{line} is not in\n{}", welcomed.answer);
        }
        assert_eq!(attribute(&offer, "ice-ufrag"), Some(&*welcomed.remote_ufrag));
        let refused = |offer: &str| welcome(offer, &here()).unwrap_err();
        assert_eq!(refused(OFFER), Unfit::SendsNoH264, "it only receives");
        assert_eq!(refused(&offer.replace("H264/90000", "H263/90000")), Unfit::SendsNoH264);
        assert!(matches!(refused("v=0"), Unfit::BadSdp(_)));
    }

    #[test]
    fn nonsense_is_refused() {
        let long = "a=x\r\n".repeat(20_000);
        let sections = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n".repeat(17);
        let unnamed = OFFER.replace("a=ice-ufrag", "a=x");
        let unsigned = OFFER.replace("a=fingerprint", "a=x");
        for text in ["", "v=0", "{}", "\0\0", &long, &sections, &unnamed, &unsigned, &OFFER[..700]]
        {
            assert!(matches!(answer(text, MAIN, &here()), Err(Unfit::BadSdp(_))), "{text:.80}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_text_is_answered_or_refused(text in "\\PC{0,200}") {
            let _ = judge(&text, MAIN, &here());
        }

        #[test]
        fn a_damaged_offer_is_answered_or_refused(
            cuts in prop::collection::vec((0usize..OFFER.len(), 0usize..40, "[ -~\r\n]{0,8}"), 1..6)
        ) {
            let mut text = OFFER.to_owned();
            for (at, length, with) in cuts {
                let at = at.min(text.len());
                text.replace_range(at..(at + length).min(text.len()), &with);
            }
            // Not through the last fence: a panic shows here.
            let _ = judge(&text, MAIN, &here());
        }
    }
}
