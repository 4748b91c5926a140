//! Lets the WebSocket exit ask the scheduler about pictures sent in, without the two knowing each other.

use std::sync::Arc;

use crate::decode::RgbPicture;
use crate::detect::scheduler::{PictureError as Refused, Scheduler};
use crate::ws::{PictureAnswer, PictureDetector, PictureError, PictureFuture};

pub(super) fn detector(scheduler: &Arc<Scheduler>) -> Arc<dyn PictureDetector> {
    Arc::new(Through(Arc::clone(scheduler)))
}

struct Through(Arc<Scheduler>);

impl PictureDetector for Through {
    fn detect(&self, picture: RgbPicture) -> PictureFuture<'_> {
        Box::pin(async move {
            let answer = self.0.picture(picture).await.map_err(|refused| match refused {
                Refused::Detect(e) => PictureError::Failed(e.to_string()),
                other => PictureError::Unavailable(other.to_string()),
            })?;
            Ok(PictureAnswer { detections: answer.detections, processing: answer.infer })
        })
    }
}
