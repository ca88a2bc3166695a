//! The law of `unsafe`: it stands only where the architecture puts it, so that a reviewer knows
//! which files to read twice. Reads tokens, so that macros and attributes are seen too, and
//! comments and strings are not.

use std::str::FromStr as _;

use proc_macro2::{TokenStream, TokenTree};

use super::{Finding, Source};

/// Files and folders that may say `unsafe`.
const PLACES: [&str; 8] = [
    "lb-ebpf/src/kernel",
    "lb-ebpf/src/main.rs",
    "lb-ebpf/src/maps",
    "lb-ebpf/src/packet",
    "lb-ebpf/src/sock",
    "lb-ebpf/src/tc",
    "lb-ebpf/src/xdp",
    "lb-userspace/src/datapath",
];

/// Every `unsafe` outside those places.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    if PLACES.iter().any(|place| source.is_within(place)) {
        return Vec::new();
    }
    let mut lines = Vec::new();
    // The file parsed, so its tokens do too.
    collect(TokenStream::from_str(&source.text).unwrap_or_default(), &mut lines);
    lines.dedup();
    lines
        .into_iter()
        .map(|line| {
            source.finding(
                line,
                "`unsafe` stands only in lb-ebpf's kernel, packet, maps, tc, xdp, sock and main, and in the agent's datapath",
                "use a safe wrapper there, or a library's",
            )
        })
        .collect()
}

fn collect(tokens: TokenStream, lines: &mut Vec<usize>) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) if ident == "unsafe" => lines.push(ident.span().start().line),
            TokenTree::Group(group) => collect(group.stream(), lines),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::found;

    const TEXT: &str = "//! About unsafe.\nfn f() {\n    // unsafe\n    unsafe { g() };\n    m!(unsafe { h() });\n    \
                        print(\"unsafe\");\n}\n#[unsafe(no_mangle)]\nfn i() {}\n";

    #[test]
    fn blocks_macros_and_attributes_are_found_but_no_words() {
        let lines: Vec<_> =
            found(check, "lb-userspace/src/plan/mod.rs", TEXT).into_iter().map(|found| found.0).collect();
        assert_eq!(lines, [4, 5, 8]);
    }

    #[test]
    fn the_places_for_it_are_left_alone() {
        for path in ["lb-userspace/src/datapath/raw.rs", "lb-ebpf/src/packet.rs", "lb-ebpf/src/main.rs"] {
            assert!(found(check, path, TEXT).is_empty(), "{path}");
        }
        assert!(!found(check, "lb-userspace/build.rs", TEXT).is_empty());
        assert!(!found(check, "lb-ebpf/src/rewrite.rs", TEXT).is_empty());
    }
}
