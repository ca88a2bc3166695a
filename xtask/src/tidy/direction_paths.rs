//! Which paths a source file names, and where: in `use` lines, expressions, types and `extern
//! crate`. Relative paths are made absolute from the file's place. It judges nothing. Invariant:
//! code that is compiled for tests only is not seen.

use proc_macro2::TokenTree;
use syn::{
    Attribute, Item, UseTree,
    visit::{self, Visit},
};

use super::Source;

/// One path and its line: `std::time::Instant`, `crate::plan::Row`.
pub(super) struct Mention {
    pub(super) path: String,
    pub(super) line: usize,
}

/// Every path that the file names outside its tests.
pub(super) fn mentions(source: &Source) -> Vec<Mention> {
    let Some(module) = module_of(&source.path) else {
        return Vec::new();
    };
    let mut paths = Paths { module, found: Vec::new() };
    paths.visit_file(&source.tree);
    paths.found
}

/// The file's own module from the crate's root, or `None` where the file is a test.
fn module_of(path: &str) -> Option<Vec<String>> {
    let below = path.split_once("/src/").map_or("", |(_, below)| below);
    let below = below.strip_suffix(".rs").unwrap_or(below);
    let mut module = vec!["crate".to_owned()];
    for part in below.split('/').filter(|part| !matches!(*part, "" | "mod" | "lib" | "main")) {
        if part == "tests" || part.ends_with("_tests") {
            return None;
        }
        module.push(part.to_owned());
    }
    Some(module)
}

struct Paths {
    module: Vec<String>,
    found: Vec<Mention>,
}

impl Paths {
    fn add(&mut self, segments: &[String], line: usize) {
        let mut absolute = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            match segment.as_str() {
                "self" if index == 0 => absolute.clone_from(&self.module),
                "self" => {}
                "super" => {
                    if index == 0 {
                        absolute.clone_from(&self.module);
                    }
                    absolute.pop();
                }
                name => absolute.push(name.to_owned()),
            }
        }
        self.found.push(Mention { path: absolute.join("::"), line });
    }

    fn add_tree(&mut self, prefix: &mut Vec<String>, tree: &UseTree) {
        let (ident, below) = match tree {
            UseTree::Path(path) => (&path.ident, Some(&*path.tree)),
            UseTree::Name(name) => (&name.ident, None),
            UseTree::Rename(rename) => (&rename.ident, None),
            UseTree::Glob(_) => return,
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(prefix, tree);
                }
                return;
            }
        };
        prefix.push(ident.to_string());
        match below {
            Some(tree) => {
                if matches!(tree, UseTree::Glob(_)) {
                    self.add(prefix, ident.span().start().line);
                }
                self.add_tree(prefix, tree);
            }
            None => self.add(prefix, ident.span().start().line),
        }
        prefix.pop();
    }
}

impl<'a> Visit<'a> for Paths {
    fn visit_item(&mut self, item: &'a Item) {
        if !attributes(item).iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.add_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_item_extern_crate(&mut self, item: &'a syn::ItemExternCrate) {
        self.add(&[item.ident.to_string()], item.ident.span().start().line);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if path.segments.len() > 1 {
            let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.add(&segments, path.segments[0].ident.span().start().line);
        }
        visit::visit_path(self, path);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]`, also as one of several conditions, but not `#[cfg(not(test))]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    if !list.path.is_ident("cfg") {
        return false;
    }
    let mut tokens = list.tokens.clone().into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(TokenTree::Ident(word)), None) => word == "test",
        (Some(TokenTree::Ident(word)), Some(TokenTree::Group(group))) if word == "all" => {
            group.stream().into_iter().any(|token| matches!(token, TokenTree::Ident(word) if word == "test"))
        }
        _ => false,
    }
}
