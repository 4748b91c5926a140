//! Which decoders this machine has, for `spotter probe`: each known element tried as far as its device, or why not.

use serde::Serialize;

use super::DecodeError;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DecoderReport {
    pub element: &'static str,
    /// "H.264", "H.265".
    pub codecs: Vec<&'static str>,
    pub hardware: bool,
    pub present: bool,
    /// The device or plugin behind it when it is there, else why it is not.
    pub detail: String,
    /// The driver behind the device, where there is one.
    pub driver: Option<String>,
}

/// Looks for every known decoder. May open devices for a moment; takes some tenths of a second.
#[cfg(feature = "gst")]
pub fn inspect() -> Result<Vec<DecoderReport>, DecodeError> {
    super::gst::start()?;
    let report = |known: &super::elements::Known| {
        let (present, detail, driver) = match found::element(known.name, known.comes_with) {
            Ok((behind, driver)) => (true, behind, driver),
            Err(why) => (false, why, None),
        };
        let codecs = known.codecs.iter().map(|c| c.name()).collect();
        let (element, hardware) = (known.name, known.hardware);
        DecoderReport { element, codecs, hardware, present, detail, driver }
    };
    Ok(super::elements::KNOWN.iter().map(report).collect())
}

/// What is behind any element that opens and the driver behind that, or why it does not open.
#[cfg(feature = "gst")]
pub(crate) fn look_at(element: &str, comes_with: &str) -> Result<(String, Option<String>), String> {
    super::gst::start().map_err(|e| e.to_string())?;
    found::element(element, comes_with)
}

#[cfg(not(feature = "gst"))]
pub fn inspect() -> Result<Vec<DecoderReport>, DecodeError> {
    Err(DecodeError::NoGstreamer)
}

#[cfg(feature = "gst")]
mod found {
    use gstreamer as gst;
    use gstreamer::prelude::*;

    use std::path::Path;

    use crate::board::driver_of;

    /// What is behind an element that opens, or why it does not.
    pub(super) fn element(
        name: &str,
        comes_with: &str,
    ) -> Result<(String, Option<String>), String> {
        let missing = || format!("not there; it comes with {comes_with}");
        let factory = gst::ElementFactory::find(name).ok_or_else(missing)?;
        let element = factory.create().build().map_err(|e| format!("cannot be made: {e}"))?;
        // Ready is the state in which a decoder holds its device and no stream yet.
        let ready = element.set_state(gst::State::Ready);
        let device = ["device", "device-path"].into_iter().find_map(|p| text(&element, p));
        let driver = device.as_deref().and_then(|d| driver_of(Path::new("/"), d));
        let _ = element.set_state(gst::State::Null);
        ready.map_err(|_| match &device {
            Some(device) => format!("does not open {device}"),
            None => "is installed but does not start".into(),
        })?;
        Ok((device.unwrap_or_else(|| plugin(&factory)), driver))
    }

    fn text(element: &gst::Element, property: &str) -> Option<String> {
        if !element.has_property_with_type(property, String::static_type()) {
            return None;
        }
        element.property::<Option<String>>(property)
    }

    fn plugin(factory: &gst::ElementFactory) -> String {
        factory.plugin().map_or_else(
            || "built in".into(),
            |p| format!("plugin {} {}", p.plugin_name(), p.version()),
        )
    }
}

#[cfg(all(test, feature = "gst"))]
mod tests {
    use super::*;

    #[test]
    fn every_known_decoder_is_there_or_says_why_not() {
        let all = inspect().unwrap();
        assert_eq!(all.len(), super::super::elements::KNOWN.len());
        assert!(all.iter().all(|r| !r.detail.is_empty()));
        let libav = all.iter().find(|r| r.element == "avdec_h264").unwrap();
        assert!(libav.present && libav.detail.contains("libav"), "{libav:?}");
    }
}
