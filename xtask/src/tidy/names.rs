//! The law of names: a file is called by what it decides. Knows paths only. Invariant: the crate's
//! own folder is exempt, so that lb-common may be lb-common.

use super::{Finding, Source};

const SAY_NOTHING: [&str; 8] =
    ["utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"];

/// Files and folders whose name says nothing.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let below_crate = source.path.split('/').skip(1);
    let parts: Vec<_> = below_crate.map(|part| part.strip_suffix(".rs").unwrap_or(part)).collect();
    SAY_NOTHING
        .iter()
        .filter(|name| parts.contains(name))
        .map(|name| {
            source.finding(1, format!("no file or folder is called `{name}`"), "call it by what it decides")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::found;

    #[test]
    fn a_name_that_says_nothing_is_found_in_file_and_folder() {
        assert_eq!(found(check, "xtask/src/utils.rs", "").len(), 1);
        assert_eq!(found(check, "tests/tests/common/mod.rs", "").len(), 1);
        assert!(found(check, "lb-common/src/lib.rs", "").is_empty());
    }
}
