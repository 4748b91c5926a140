//! Topic names and filters: which are legal, and which filter takes which topic (OASIS MQTT 5.0 section 4.7). Pure.

/// Longest name or filter, bytes. The standard allows 64 kB; nobody needs that, and matching costs time.
const MAX_BYTES: usize = 1024;
/// Most levels of a filter, for the same reason.
const MAX_LEVELS: usize = 64;

/// Whether something may be published under `topic`.
pub fn is_name(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= MAX_BYTES && !topic.contains(['+', '#', '\0'])
}

/// Whether `filter` may be subscribed to. Shared subscriptions (`$share/...`) may not.
pub fn is_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > MAX_BYTES || filter.starts_with("$share/") {
        return false;
    }
    let levels = filter.split('/').count();
    levels <= MAX_LEVELS
        && filter.split('/').enumerate().all(|(at, level)| match level {
            "#" => at + 1 == levels,
            "+" => true,
            plain => !plain.contains(['+', '#', '\0']),
        })
}

/// Whether a legal `filter` takes a legal `topic`.
pub fn matches(filter: &str, topic: &str) -> bool {
    // Wildcards in front do not take the server's own topics.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = topic.split('/');
    let mut levels = filter.split('/');
    loop {
        match (levels.next(), names.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(name)) if level == name => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a", false),
            ("a", "a/b", false),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/+", "a/", true),
            ("a/+/c", "a/b/c", true),
            ("+", "a", true),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("+", "/a", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/#", "ab", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn names_and_filters_are_checked() {
        for good in ["a", "/", "a//b", "$SYS/x", "ä/ö", "spotter/node/cam/detections"] {
            assert!(is_name(good) && is_filter(good), "{good}");
        }
        for bad in ["", "a\0", &"x".repeat(1025)] {
            assert!(!is_name(bad) && !is_filter(bad), "{bad:?}");
        }
        for wild in ["#", "+", "a/#", "+/a/+", "a/+/#"] {
            assert!(!is_name(wild) && is_filter(wild), "{wild}");
        }
        for bad in ["a#", "#/a", "a/#/b", "a+", "+a/b", "$share/g/a", &"/".repeat(100)] {
            assert!(!is_filter(bad), "{bad}");
        }
    }
}
