//! A configuration's text without its Wi-Fi passwords, every line where it was. Pure.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// As long as a password must be, so that the masked text is a configuration still.
const MASK: &str = "\"********\"";

/// The service reads the configuration and needs no password in it.
pub(super) fn masked(text: &str) -> String {
    let mut out = text.to_owned();
    let mut spans = passwords(text);
    spans.sort_by_key(|span| span.start);
    for span in spans.into_iter().rev() {
        out.replace_range(span, MASK);
    }
    out
}

fn passwords(text: &str) -> Vec<Range<usize>> {
    let Ok(root) = DeTable::parse(text) else { return Vec::new() };
    let Some(DeValue::Table(machine)) = root.get_ref().get("box").map(|v| v.get_ref()) else {
        return Vec::new();
    };
    let Some(DeValue::Array(wifi)) = machine.get("wifi").map(|v| v.get_ref()) else {
        return Vec::new();
    };
    let password = |network: &DeValue<'_>| match network {
        DeValue::Table(network) => network.get("password").map(|v| v.span()),
        _ => None,
    };
    wifi.iter().filter_map(|network| password(network.get_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_password_is_masked_and_any_text_survives(
            passwords in proptest::collection::vec("\\PC{1,20}", 1..4), garbage in "\\PC{0,200}",
        ) {
            masked(&garbage);
            let network = |(n, password): (usize, &String)| {
                toml::Table::from_iter([("name", format!("n{n}")), ("password", password.clone())]
                    .map(|(key, text)| (key.to_owned(), toml::Value::String(text))))
            };
            let wifi: Vec<_> = passwords.iter().enumerate().map(network).map(toml::Value::Table).collect();
            let machine = toml::Table::from_iter([("wifi".to_owned(), toml::Value::Array(wifi))]);
            let text = toml::to_string(&toml::Table::from_iter([("box".to_owned(), toml::Value::Table(machine))]));
            let out: toml::Table = masked(&text.unwrap()).parse().unwrap();
            let kept = out["box"]["wifi"].as_array().unwrap();
            proptest::prop_assert_eq!(kept.len(), passwords.len());
            for (n, network) in kept.iter().enumerate() {
                proptest::prop_assert_eq!(network["name"].as_str(), Some(&*format!("n{n}")));
                proptest::prop_assert_eq!(network["password"].as_str(), Some("********"));
            }
        }
    }

    #[test]
    fn every_way_to_write_a_password_is_masked() {
        for text in [
            "[box]\nwifi = [{ name = \"a\", password = \"hush \\\" hush\" }, { password = 'hush-two', name = \"b\" }] # c\n[web]\nmax_webrtc = 3\n",
            "[[box.wifi]]\nname = \"a\"\npassword = \"\"\"hush hush\"\"\"\n[[box.wifi]]\nname = \"b\"\npassword = \"hush hush\" # c\n[web]\nmax_webrtc = 3\n",
            "box.wifi = [{ name = \"a\", password = \"hush hush\" }]\nweb.max_webrtc = 3\n",
        ] {
            let out = masked(text);
            assert!(!out.contains("hush"), "{out}");
            assert_eq!(out.lines().count(), text.lines().count());
            let config = crate::config::parse("f", &out).unwrap();
            assert_eq!(config.web.max_webrtc, 3);
            assert_eq!(config.machine.wifi[0].password.expose(), "********");
        }
    }
}
