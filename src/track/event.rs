//! What subscribers are told of an animal: that it came, what became known of it, and that it is gone. Only the values.

use std::sync::Arc;
use std::time::SystemTime;

use crate::detect::BBox;
use crate::media::{MediaTime, StreamId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    New,
    Update,
    End,
}

impl EventKind {
    /// As messages say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Update => "update",
            Self::End => "end",
        }
    }
}

/// One message of an animal's visit. The first of a visit is `New`, the last is `End`, and each comes once.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub kind: EventKind,
    /// As the message before told it; of `New`, the same as `after`.
    pub before: Arc<Visit>,
    pub after: Arc<Visit>,
}

/// A frame's time on the stream's own line and on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub media: MediaTime,
    pub wall: SystemTime,
}

/// An animal's visit as far as it is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Visit {
    /// Seconds since 1970 at the start and six random characters, as in `1763907780.123456-k3x9ab`.
    pub id: Arc<str>,
    pub stream: StreamId,
    pub track_id: u64,
    /// The label most of its recent frames had.
    pub label: Arc<str>,
    /// Of the newest frame it was seen in, 0 to 1.
    pub score: f32,
    /// The highest median of its scores so far, 0 to 1.
    pub top_score: f32,
    /// When it was first seen, which is before it was confirmed.
    pub start: Moment,
    /// When it was last seen.
    pub seen: Moment,
    /// The same as `seen`, once it is over.
    pub end: Option<Moment>,
    /// Pixels of the pictures that the boxes are of.
    pub width: u32,
    pub height: u32,
    /// Where it was last seen.
    pub bbox: BBox,
    pub best: Best,
    /// Zones it stands in now, and all it was in, in the order it came into them.
    pub current_zones: Vec<Arc<str>>,
    pub entered_zones: Vec<Arc<str>>,
}

/// The picture that shows an animal best.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    pub at: Moment,
    /// Counts the stream's decoded pictures, as in `Detections`.
    pub seq: u64,
    pub score: f32,
    pub bbox: BBox,
}

/// This frame is the best picture of a visit so far: whoever keeps pictures keeps it now, for the frame goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct BetterPicture {
    /// The visit's.
    pub id: Arc<str>,
    pub label: Arc<str>,
    pub best: Best,
}
