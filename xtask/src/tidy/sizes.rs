//! The laws of size, and that every module says what it is for. Counts lines, nothing else.
//! Invariant: a size beyond the law needs a reason in the source, next to what is too long.

use proc_macro2::Span;
use syn::{
    Block, Signature,
    visit::{self, Visit},
};

use super::{Finding, Source};

const FILE: usize = 400;
const FUNCTION: usize = 70;
const FUNCTION_IN_DATAPATH: usize = 40;
const REASON: &str = "// tidy: long because ";

/// Length of the file and its functions, and its opening.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut findings = Vec::new();
    let opening = lines.iter().find(|line| !line.trim().is_empty());
    if !opening.is_some_and(|line| line.starts_with("//!")) {
        findings.push(source.finding(
            1,
            "every module opens with `//!`",
            "say what it decides, what it must not know, and its invariant",
        ));
    }
    if lines.len() > FILE && !lines.iter().any(|line| gives_reason(line)) {
        findings.push(source.finding(
            FILE,
            format!("a file has {FILE} lines at most, this one {}", lines.len()),
            "divide it, or say `// tidy: long because ...`",
        ));
    }
    let limit = if source.is_within("lb-ebpf") { FUNCTION_IN_DATAPATH } else { FUNCTION };
    let mut functions = Functions(Vec::new());
    functions.visit_file(&source.tree);
    for Function { name, first, last } in functions.0 {
        let length = last - first + 1;
        if length > limit && !reason_above(&lines, first) {
            findings.push(source.finding(
                first,
                format!("a function has {limit} lines at most here, `{name}` {length}"),
                "divide it, or say `// tidy: long because ...` above it",
            ));
        }
    }
    findings
}

fn gives_reason(line: &str) -> bool {
    line.trim().strip_prefix(REASON).is_some_and(|reason| reason.len() >= 10)
}

/// Whether the comments and attributes right above a line give the reason.
fn reason_above(lines: &[&str], line: usize) -> bool {
    let above = lines[..line.saturating_sub(1)].iter().rev();
    above
        .take_while(|line| line.trim_start().starts_with("//") || line.trim_start().starts_with("#["))
        .any(|line| gives_reason(line))
}

struct Function {
    name: String,
    first: usize,
    last: usize,
}

struct Functions(Vec<Function>);

impl Functions {
    fn add(&mut self, signature: &Signature, block: &Block) {
        let line = |span: Span| span.start().line;
        self.0.push(Function {
            name: signature.ident.to_string(),
            first: line(signature.fn_token.span),
            last: line(block.brace_token.span.close()),
        });
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::found;

    fn function(lines: usize, above: &str) -> String {
        format!("//! Opens.\n{above}fn long() {{\n{}}}\n", "    call();\n".repeat(lines - 2))
    }

    #[test]
    fn a_module_without_an_opening_is_found() {
        assert_eq!(found(check, "xtask/src/main.rs", "fn main() {}\n").len(), 1);
        assert_eq!(found(check, "xtask/src/main.rs", "").len(), 1);
        assert!(found(check, "xtask/src/main.rs", "//! Opens.\nfn main() {}\n").is_empty());
    }

    #[test]
    fn a_function_may_have_seventy_lines_and_forty_in_the_datapath() {
        assert!(found(check, "xtask/src/a.rs", &function(70, "")).is_empty());
        assert_eq!(found(check, "xtask/src/a.rs", &function(71, ""))[0].0, 2);
        assert!(found(check, "lb-ebpf/src/a.rs", &function(40, "")).is_empty());
        assert_eq!(found(check, "lb-ebpf/src/a.rs", &function(41, "")).len(), 1);
    }

    #[test]
    fn methods_count_as_functions() {
        let body = "    call();\n".repeat(80);
        let text = format!(
            "//! Opens.\nimpl A {{\nfn long() {{\n{body}}}\n}}\ntrait B {{\nfn b() {{\n{body}}}\n}}\n"
        );
        assert_eq!(found(check, "xtask/src/a.rs", &text).len(), 2);
    }

    #[test]
    fn a_reason_right_above_excuses_a_function() {
        let reason = "// tidy: long because it is one table, row by row\n#[test]\n";
        assert!(found(check, "xtask/src/a.rs", &function(90, reason)).is_empty());
        assert_eq!(found(check, "xtask/src/a.rs", &function(90, "// tidy: long because\n")).len(), 1);
    }

    #[test]
    fn a_file_may_have_four_hundred_lines_unless_it_says_why() {
        let file = |lines: usize| format!("//! Opens.\n{}", "// text\n".repeat(lines - 1));
        assert!(found(check, "xtask/src/a.rs", &file(400)).is_empty());
        assert_eq!(found(check, "xtask/src/a.rs", &file(401)).len(), 1);
        let excused = format!("{}// tidy: long because it is generated\n", file(500));
        assert!(found(check, "xtask/src/a.rs", &excused).is_empty());
    }
}
