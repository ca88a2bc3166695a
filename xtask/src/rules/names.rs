//! The rules that a test names itself after. Reads tokens, so that tests inside of macros are found and comments and
//! strings are not. Knows no rule's meaning. Invariant: `c14_c15_words` is a test of C14 and of C15, `rule_4_words` of
//! the prototype's fourth rule, and what is ignored or is no test is a test of none.

use std::{fmt, str::FromStr as _};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A rule's number, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// Of the Service contract.
    Contract(u8),
    /// Of those that a prototype taught.
    Prototype(u8),
}

impl Rule {
    /// How the name of a test of it begins.
    pub(super) fn prefix(self) -> String {
        match self {
            Self::Contract(number) => format!("c{number}_"),
            Self::Prototype(number) => format!("rule_{number}_"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contract(number) => write!(f, "C{number}"),
            Self::Prototype(number) => write!(f, "rule {number}"),
        }
    }
}

/// A test of some rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Test {
    /// Of its file, from the workspace's root.
    pub(super) path: String,
    pub(super) name: String,
}

impl Test {
    /// The name of its crate.
    pub(super) fn krate(&self) -> &str {
        match self.path.split('/').next() {
            Some("tests") => "lb-tests",
            folder => folder.unwrap_or_default(),
        }
    }

    /// Its file, from its crate's folder.
    pub(super) fn file(&self) -> &str {
        self.path.split_once('/').map_or(&*self.path, |(_, file)| file)
    }
}

/// Every test of the file, once for each rule that it names.
pub(super) fn of_file(path: &str, text: &str) -> Vec<(Rule, Test)> {
    let mut names = Vec::new();
    // Most files have none, and words are found faster than tokens.
    if !text.contains("fn c") && !text.contains("fn rule_") {
        return Vec::new();
    }
    // What is no Rust is the compiler's to tell.
    collect(TokenStream::from_str(text).unwrap_or_default(), &mut names);
    let of_name = |name: String| {
        let rules = rules(&name);
        rules.into_iter().map(move |rule| (rule, name.clone()))
    };
    names
        .into_iter()
        .flat_map(of_name)
        .map(|(rule, name)| (rule, Test { path: path.to_owned(), name }))
        .collect()
}

/// The rules that a name begins with.
fn rules(name: &str) -> Vec<Rule> {
    let (mut found, mut rest) = (Vec::new(), name);
    loop {
        let (word, rule): (_, fn(u8) -> Rule) = match rest.strip_prefix("rule_") {
            Some(word) => (word, Rule::Prototype),
            None => (rest.strip_prefix('c').unwrap_or_default(), Rule::Contract),
        };
        let Some((number, after)) = word.split_once('_') else { break };
        let Ok(number) = number.parse() else { break };
        found.push(rule(number));
        rest = after;
    }
    found
}

fn collect(tokens: TokenStream, names: &mut Vec<String>) {
    let (mut is_test, mut is_ignored) = (false, false);
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                if let Some(TokenTree::Group(group)) = tokens.peek() {
                    is_test |= is_attribute(group, "test");
                    is_ignored |= is_attribute(group, "ignore");
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => (is_test, is_ignored) = (false, false),
            TokenTree::Ident(word) if word == "fn" => {
                if let Some(TokenTree::Ident(name)) = tokens.peek()
                    && is_test
                    && !is_ignored
                {
                    names.push(name.to_string());
                }
            }
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                (is_test, is_ignored) = (false, false);
                collect(group.stream(), names);
            }
            TokenTree::Group(group) => collect(group.stream(), names),
            _ => {}
        }
    }
}

/// Is it `[test]`, `[tokio::test(...)]` and the like?
fn is_attribute(group: &Group, name: &str) -> bool {
    let words = group.stream().into_iter().take_while(|token| !matches!(token, TokenTree::Group(_)));
    let last = words.filter_map(|token| match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        _ => None,
    });
    group.delimiter() == Delimiter::Bracket && last.last().is_some_and(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        of_file("a.rs", text).into_iter().map(|(rule, test)| format!("{rule} {}", test.name)).collect()
    }

    #[test]
    fn a_name_may_name_several_rules() {
        assert_eq!(found("#[test] fn c1_c22_x() {}"), ["C1 c1_c22_x", "C22 c1_c22_x"]);
        assert_eq!(found("#[test] fn rule_4_says_so() {}"), ["rule 4 rule_4_says_so"]);
        assert_eq!(rules("rule_1_c27_words"), [Rule::Prototype(1), Rule::Contract(27)]);
        assert_eq!(rules("c1_two_words_c3"), [Rule::Contract(1)]);
    }

    #[test]
    fn tests_are_found_in_modules_and_macros_and_with_other_attributes() {
        assert_eq!(found("mod tests { proptest! { #[test] fn c2_a(x in 0..1) { } } }"), ["C2 c2_a"]);
        assert_eq!(found("#[tokio::test(start_paused = true)]\nasync fn c3_a() {}"), ["C3 c3_a"]);
        assert_eq!(found("#[test]\n#[should_panic(expected = \"x\")]\nfn c4_a() {}"), ["C4 c4_a"]);
    }

    #[test]
    fn what_is_ignored_or_no_test_or_only_told_of_counts_for_nothing() {
        assert!(found("fn c2_a() {}").is_empty());
        assert!(found("#[test] #[ignore = \"kernel lacks it\"] fn c2_a() {}").is_empty());
        assert!(found("#[test] fn plain() {} fn c2_a() {}").is_empty());
        assert!(found("// #[test] fn c2_a() {}\nconst A: &str = \"#[test] fn c2_a() {}\";").is_empty());
        assert!(found("#[test] fn cat_c2_a() {} #[test] fn rule_of_thumb() {}").is_empty());
    }
}
