//! Which of two versions is older. Pure.

use std::cmp::Ordering;

/// Whether `a` is older than `b`: numbers count as numbers, 1.0-rc1 comes before 1.0, 1.0+20261125 after it.
pub fn older(a: &str, b: &str) -> bool {
    compare(a, b) == Ordering::Less
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part<'a> {
    /// What comes before the version itself.
    Before,
    End,
    /// What comes after it, of the same version.
    Build,
    Word(&'a str),
    Number(u128),
}

fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (Parts(a), Parts(b));
    loop {
        match (a.next(), b.next()) {
            (Part::End, Part::End) => return Ordering::Equal,
            (a, b) if a != b => return a.cmp(&b),
            _ => {}
        }
    }
}

struct Parts<'a>(&'a str);

impl<'a> Parts<'a> {
    fn next(&mut self) -> Part<'a> {
        // `~` is Debian's for what comes before.
        if let Some(rest) = self.0.strip_prefix(['-', '~'])
            && rest.starts_with(|c: char| c.is_ascii_alphabetic())
        {
            self.0 = rest;
            return Part::Before;
        }
        if let Some(rest) = self.0.strip_prefix('+') {
            self.0 = rest;
            return Part::Build;
        }
        let rest = self.0.trim_start_matches(|c: char| !c.is_alphanumeric());
        let digits = rest.starts_with(|c: char| c.is_ascii_digit());
        let same = |c: char| c.is_alphanumeric() && c.is_ascii_digit() == digits;
        let end = rest.find(|c| !same(c)).unwrap_or(rest.len());
        let part;
        (part, self.0) = rest.split_at(end);
        match part {
            "" => Part::End,
            _ if digits => Part::Number(part.parse().unwrap_or(u128::MAX)),
            word => Part::Word(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_in_the_order_people_expect() {
        let order = [
            "",
            "0.9",
            "1.0-alpha",
            "1.0-rc1",
            "1.0-rc2",
            "1.0-rc10",
            "1.0",
            "1.0+20261124",
            "1.0+20261125",
            "1.0.1",
            "1.2",
            "1.10",
            "2026.11.25",
        ];
        for (n, a) in order.iter().enumerate() {
            for (m, b) in order.iter().enumerate() {
                assert_eq!(compare(a, b), n.cmp(&m), "{a} {b}");
            }
        }
        assert!(!older("1.0", "1.0") && !older("v1.0", "v1.0") && older("v1.0", "v1.1"));
    }
}
