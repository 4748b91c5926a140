//! A decoder that decodes nothing: a grey picture of the published size for every unit, at once.
//! For machines and tests without GStreamer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    DecodeError, Decoded, Decoder, FrameSink, Picture, PictureView, Pushed, RgbPicture, Signals,
};
use crate::media::{AccessUnit, VideoParams};

pub(super) struct FakeDecoder {
    grey: Arc<RgbPicture>,
    sink: FrameSink,
    signals: Arc<Signals>,
}

/// All pictures share one memory.
struct Grey(Arc<RgbPicture>);

impl Picture for Grey {
    fn view(&self) -> PictureView<'_> {
        self.0.view()
    }
}

impl FakeDecoder {
    pub(super) fn new(params: &VideoParams, sink: FrameSink, signals: Arc<Signals>) -> Self {
        let (width, height) = (params.width, params.height);
        let pixels = vec![128; width as usize * height as usize * 3];
        Self { grey: Arc::new(RgbPicture { width, height, pixels }), sink, signals }
    }
}

impl Decoder for FakeDecoder {
    fn push(&mut self, unit: &AccessUnit) -> Result<Pushed, DecodeError> {
        self.signals.pictures.inc();
        (self.sink)(Decoded {
            pts: unit.pts,
            arrived: unit.arrived,
            decoded: Instant::now(),
            picture: Box::new(Grey(Arc::clone(&self.grey))),
        });
        Ok(Pushed::Taken)
    }

    fn finish(&mut self, _within: Duration) {}
}
