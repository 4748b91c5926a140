//! What of all messages reaches one subscriber, over whatever door. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Encoded, stream, stream_gone};
use crate::media::StreamId;
use crate::media::stream::StreamSummary;
use crate::media::unit::BadStreamName;

/// Most streams or labels one subscription names.
const MAX_NAMES: usize = 100;

/// Why a subscription cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    #[error("more than {MAX_NAMES} streams or labels")]
    TooManyNames,
    #[error("min_confidence is from 0 to 1")]
    Confidence,
    #[error(transparent)]
    Stream(#[from] BadStreamName),
}

/// What a subscription lets through.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// `None`: every stream.
    streams: Option<Vec<StreamId>>,
    /// Empty: every label.
    labels: Vec<String>,
    /// 0 to 1.
    min_confidence: f32,
}

impl Filter {
    /// No streams, or one of them `*`: all. Likewise labels.
    pub fn new(
        streams: Vec<String>,
        labels: Vec<String>,
        min_confidence: f32,
    ) -> Result<Self, BadFilter> {
        if streams.len() > MAX_NAMES || labels.len() > MAX_NAMES {
            return Err(BadFilter::TooManyNames);
        }
        if !(0.0..=1.0).contains(&min_confidence) {
            return Err(BadFilter::Confidence);
        }
        let every = |names: &[String]| names.is_empty() || names.iter().any(|n| n == "*");
        let streams = if every(&streams) {
            None
        } else {
            let ids: Result<_, _> = streams.iter().map(|s| StreamId::new(s)).collect();
            Some(ids?)
        };
        let labels = if every(&labels) { Vec::new() } else { labels };
        Ok(Self { streams, labels, min_confidence })
    }

    /// Narrowed to the one stream the caller may read.
    pub fn only(mut self, stream: &StreamId) -> Self {
        let wanted = self.takes(stream);
        self.streams = Some(if wanted { vec![stream.clone()] } else { Vec::new() });
        self
    }

    pub fn takes(&self, stream: &StreamId) -> bool {
        self.streams.as_ref().is_none_or(|streams| streams.contains(stream))
    }

    /// The message as this subscriber gets it. A frame of a wanted stream comes even when nothing wanted is in it, so
    /// that a viewer can take its boxes away.
    pub fn detections(&self, message: &Encoded) -> Option<Bytes> {
        if !self.takes(&message.detections.stream) {
            return None;
        }
        Some(message.json_where(|d| {
            d.confidence >= self.min_confidence
                && (self.labels.is_empty() || self.labels.iter().any(|l| **l == *d.label))
        }))
    }
}

/// Streams as a subscriber last heard of them.
#[derive(Debug, Default)]
pub struct Heard(BTreeMap<StreamId, StreamSummary>);

impl Heard {
    /// The messages that bring the subscriber up to date.
    pub fn news(&mut self, node: &str, now: &Arc<[StreamSummary]>, filter: &Filter) -> Vec<Bytes> {
        let mut news = Vec::new();
        self.0.retain(|id, _| {
            let here = now.iter().any(|s| s.id == *id);
            if !here {
                news.push(stream_gone(node, id.as_str()));
            }
            here
        });
        for summary in now.iter().filter(|s| filter.takes(&s.id)) {
            if self.0.get(&summary.id) != Some(summary) {
                self.0.insert(summary.id.clone(), summary.clone());
                news.push(stream(node, summary));
            }
        }
        news
    }
}
