//! The names of a model's classes and which of them the owner wants. Reads no files.

use std::collections::HashMap;
use std::sync::Arc;

/// The model's class names; a class id is an index into them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels(Arc<[Arc<str>]>);

/// Which classes to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Ascending, each once.
    pub classes: Vec<u16>,
    /// Asked for, but not among the model's labels.
    pub unknown: Vec<String>,
}

impl Labels {
    /// More classes than any detector has; keeps class ids in 16 bits and buffers small.
    pub const MOST: usize = 4096;

    pub fn new(names: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }

    /// One label a line; blank lines at the end do not count.
    pub fn from_lines(text: &str) -> Self {
        Self::new(text.trim_end().lines().map(str::trim))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, class: u16) -> Option<&Arc<str>> {
        self.0.get(usize::from(class))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter()
    }

    /// Class ids of the given labels; `"*"` stands for all.
    pub fn select(&self, wanted: &[String]) -> Wanted {
        if wanted.iter().any(|w| w == "*") {
            return Wanted { classes: (0..self.len() as u16).collect(), unknown: Vec::new() };
        }
        let mut by_name: HashMap<&str, Vec<u16>> = HashMap::new();
        for (id, name) in (0u16..).zip(self.iter()) {
            by_name.entry(name).or_default().push(id);
        }
        let (mut classes, mut unknown) = (Vec::new(), Vec::new());
        for name in wanted {
            match by_name.get(name.as_str()) {
                Some(ids) => classes.extend(ids),
                None => unknown.push(name.clone()),
            }
        }
        classes.sort_unstable();
        classes.dedup();
        Wanted { classes, unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_is_sorted_unique_and_names_the_unknown() {
        let labels = Labels::from_lines("person\nbird\ncat\r\ndog\n\n");
        assert_eq!(labels.len(), 4);
        let ask =
            |names: &[&str]| labels.select(&names.iter().map(|s| (*s).into()).collect::<Vec<_>>());
        let some = ask(&["dog", "wolf", "bird", "dog"]);
        assert_eq!((some.classes, some.unknown), (vec![1, 3], vec!["wolf".to_string()]));
        assert_eq!(ask(&["*"]).classes, [0, 1, 2, 3]);
        assert!(ask(&[]).classes.is_empty());
    }
}
