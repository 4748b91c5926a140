//! Coded clips for the decoder's tests, made by ffmpeg and taken apart by ffprobe, and a stream to send them through.
// Helpers of tests are tests to us, but not to clippy.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use spotter::board::BoardKind;
use spotter::config::{self, DecodeBackend, Scaler};
use spotter::decode::{self, Colour, DecoderState, Demand, Fit, Frame, PixelFormat};
use spotter::media::stream::{Publication, StreamLimits, Takeover};
use spotter::media::{
    AccessUnit, Arrival, MediaTime, Stream, StreamId, Streams, Unit, VideoCodec, VideoParams,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The access units of a file, as a publisher would send them.
pub(crate) fn units(file: &std::path::Path) -> Vec<AccessUnit> {
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v", "-show_packets", "-show_streams"])
        .args(["-show_data", "-of", "json"])
        .arg(file)
        .output()
        .expect("ffprobe is installed");
    let probe: serde_json::Value = serde_json::from_slice(&probe.stdout).unwrap();
    let video = &probe["streams"][0];
    let size = |key: &str| u32::try_from(video[key].as_u64().unwrap()).unwrap();
    let params = Arc::new(VideoParams {
        codec: if video["codec_name"] == "h264" { VideoCodec::H264 } else { VideoCodec::H265 },
        width: size("width"),
        height: size("height"),
        record: bytes_of(&video["extradata"]),
        nal_length_size: 4,
    });
    let time = |packet: &serde_json::Value, key: &str| {
        let seconds: f64 = packet[key].as_str().unwrap().parse().unwrap();
        MediaTime::from_micros((seconds * 1e6).round() as i64)
    };
    let packets = probe["packets"].as_array().unwrap().iter();
    let unit = packets.map(|packet| AccessUnit {
        stream: StreamId::new("clip").unwrap(),
        pts: time(packet, "pts_time"),
        dts: time(packet, "dts_time"),
        key: packet["flags"].as_str().unwrap().starts_with('K'),
        intact: true,
        discontinuity: false,
        data: bytes_of(&packet["data"]),
        params: Arc::clone(&params),
        arrived: Arrival::now(),
    });
    unit.collect()
}

/// ffprobe's hex dump: an offset, sixteen bytes in groups of two, then the same as text.
fn bytes_of(dump: &serde_json::Value) -> Bytes {
    let mut bytes = Vec::new();
    for line in dump.as_str().unwrap().lines().filter(|l| !l.is_empty()) {
        let hex: Vec<u8> = line[10..50].bytes().filter(|b| *b != b' ').collect();
        let pairs = hex.chunks(2).map(|p| std::str::from_utf8(p).unwrap());
        bytes.extend(pairs.map(|p| u8::from_str_radix(p, 16).unwrap()));
    }
    bytes.into()
}

/// Makes an mp4 of `source`, a lavfi description, with these encoder options.
pub(crate) fn make(source: &str, options: &[&str]) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".mp4").tempfile().unwrap();
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-f", "lavfi", "-i", source])
        .args(options)
        .arg(file.path())
        .status()
        .expect("ffmpeg is installed");
    assert!(made.success());
    file
}

/// Two seconds of ffmpeg's test picture.
pub(crate) fn clip(options: &[&str]) -> Vec<AccessUnit> {
    units(make("testsrc=s=160x120:r=25:d=2", options).path())
}

/// The same units so much later, as the next part of one stream.
pub(crate) fn later(mut units: Vec<AccessUnit>, by: Duration) -> Vec<AccessUnit> {
    for unit in &mut units {
        unit.pts = unit.pts.saturating_add(by);
        unit.dts = unit.dts.saturating_add(by);
    }
    units
}

pub(crate) fn sorted_pts(units: &[AccessUnit]) -> Vec<MediaTime> {
    let mut pts: Vec<_> = units.iter().map(|u| u.pts).collect();
    pts.sort();
    pts
}

/// What a test wants to know of a frame; the frame itself goes back to its decoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    pub(crate) seq: u64,
    pub(crate) pts: MediaTime,
    pub(crate) size: (u32, u32),
    pub(crate) format: PixelFormat,
    pub(crate) colour: Colour,
    /// Of the published picture, where that one is smaller; and the mean of its first plane.
    pub(crate) published: (u32, u32),
    pub(crate) published_mean: Option<u8>,
    pub(crate) whole: bool,
    /// Mean of each plane.
    pub(crate) means: [u8; 3],
}

/// A stream with its decoding task.
pub(crate) struct Rig {
    streams: Arc<Streams>,
    pub(crate) stream: Arc<Stream>,
    publication: Publication,
    pub(crate) shown: Arc<Mutex<Vec<Shown>>>,
    pub(crate) state: watch::Receiver<DecoderState>,
    /// Whether anybody wants pictures; yes at first.
    pub(crate) wanted: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Rig {
    /// With the board's own order when `order` is empty.
    pub(crate) fn start(order: &[&str]) -> Self {
        Self::start_fit(order, None)
    }

    /// For a detector that wants its pictures so large.
    pub(crate) fn start_fit(order: &[&str], fit: Option<Fit>) -> Self {
        let limits =
            StreamLimits { max_streams: 1, gop_budget_bytes: 64 << 20, grace: Duration::ZERO };
        let streams = Streams::new(limits);
        let publication =
            streams.claim(&StreamId::new("clip").unwrap(), Takeover::Refused).unwrap();
        let stream = Arc::clone(publication.stream());
        let shown = Arc::new(Mutex::new(Vec::new()));
        let out = {
            let shown = Arc::clone(&shown);
            move |frame: Frame| shown.lock().push(look(&frame))
        };
        let order = order.iter().map(|s| s.to_string()).collect();
        let (backend, scaler) = (DecodeBackend::Gst, Scaler::Board);
        let cfg = config::Decode { backend, order, threads: 1, scaler };
        let sender = watch::Sender::new(DecoderState::default());
        let state = sender.subscribe();
        let (board, shutdown) = (BoardKind::X86, CancellationToken::new());
        let wanted = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&wanted);
        let asked = Box::new(move |_| asked.load(Ordering::SeqCst));
        let demand = Demand { wanted: asked, fit };
        let run = decode::run(Arc::clone(&stream), cfg, board, demand, out, sender, shutdown);
        let task = tokio::spawn(run);
        Self { streams, stream, publication, shown, state, wanted, task }
    }

    pub(crate) fn push(&self, units: &[AccessUnit]) {
        for unit in units {
            let arrived = Arrival::now();
            self.publication.push(Unit::Video(AccessUnit { arrived, ..unit.clone() })).unwrap();
        }
    }

    /// Waits for a state; fails the test when it does not come.
    pub(crate) async fn until(&mut self, what: impl FnMut(&DecoderState) -> bool) -> DecoderState {
        let wait = tokio::time::timeout(Duration::from_secs(60), self.state.wait_for(what));
        wait.await.expect("the state comes").expect("the task lives").clone()
    }

    /// Ends the stream; all frames it showed and its last state.
    pub(crate) async fn end(self) -> (Vec<Shown>, DecoderState) {
        self.streams.close_all();
        tokio::time::timeout(Duration::from_secs(60), self.task).await.unwrap().unwrap();
        let shown = std::mem::take(&mut *self.shown.lock());
        let state = self.state.borrow().clone();
        (shown, state)
    }
}

fn look(frame: &Frame) -> Shown {
    let view = frame.picture.view();
    let (w, h) = (view.width as usize, view.height as usize);
    let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
    let mean = |plane: usize, w: usize, h: usize| {
        let plane = view.planes[plane];
        let rows = (0..h).flat_map(|y| &plane.data[y * plane.stride..][..w]);
        u8::try_from(rows.map(|b| u64::from(*b)).sum::<u64>() / (w * h) as u64).unwrap()
    };
    let means = match view.format {
        PixelFormat::I420 => [mean(0, w, h), mean(1, cw, ch), mean(2, cw, ch)],
        PixelFormat::Nv12 | PixelFormat::Rgb => [mean(0, w, h), 0, 0],
    };
    let mut published_mean = None;
    frame
        .picture
        .look_at_whole(&mut |view| {
            assert_eq!((view.width, view.height), frame.picture.size());
            let (w, h) = (view.width as usize, view.height as usize);
            let plane = view.planes[0];
            let rows = (0..h).flat_map(|y| &plane.data[y * plane.stride..][..w]);
            let sum = rows.map(|b| u64::from(*b)).sum::<u64>();
            published_mean = u8::try_from(sum / (w * h) as u64).ok();
        })
        .unwrap();
    Shown {
        published: frame.picture.size(),
        published_mean,
        seq: frame.seq,
        pts: frame.pts,
        size: (view.width, view.height),
        format: view.format,
        colour: view.colour,
        whole: view.is_whole(),
        means,
    }
}
