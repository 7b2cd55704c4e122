//! Checks that the modules of each crate do not depend on each other in a cycle, and that the source map in
//! `docs/architecture.md` names every file.
//!
//! The first test compares sibling modules, each including all of its descendants. The dependencies are the
//! paths in the source. A parent and its children may use each other, and tests may use everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Attribute, Item, UseTree};

/// The path of a module or an item, from the root of its crate.
type Name = Vec<String>;

/// The source of one module, without its tests and its child modules.
#[derive(Default)]
struct Module {
    /// All paths, as written in the source.
    paths: Vec<Name>,
    /// The names that the module re-exports, each with the path as written in the source.
    exports: Vec<(String, Name)>,
}

#[derive(Default)]
struct Crate(BTreeMap<Name, Module>);

fn sources() -> impl Iterator<Item = (String, PathBuf)> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    fs::read_dir(crates).expect("there are crates").map(|entry| {
        let entry = entry.expect("it can be read");
        (
            entry.file_name().into_string().expect("it is UTF-8"),
            entry.path().join("src"),
        )
    })
}

#[test]
fn the_source_map_names_every_file_and_no_other() {
    let page = include_str!("../../docs/architecture.md");
    for (name, source) in sources() {
        let heading = format!("\n### `{name}`\n");
        let (_, section) = page
            .split_once(&heading)
            .unwrap_or_else(|| panic!("no section {heading}"));
        let rows = section.lines().take_while(|line| !line.starts_with('#'));
        let cells = rows.filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
        let named = cells
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .map(str::to_owned);
        let mut files = BTreeSet::new();
        find_files(&source, &source, &mut files);
        assert_eq!(named.collect::<BTreeSet<_>>(), files, "the source map of {name}");
    }
}

/// Finds the source files below a directory, without unit tests, and adds their paths relative to `root`.
fn find_files(root: &Path, directory: &Path, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).expect("it is a directory") {
        let path = entry.expect("it can be read").path();
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
        if is_test {
            continue;
        }
        if path.is_dir() {
            find_files(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let path = path.strip_prefix(root).expect("it is below");
            files.insert(path.to_str().expect("it is UTF-8").to_owned());
        }
    }
}

#[test]
fn modules_form_no_circles() {
    let mut circles = Vec::new();
    for (_, source) in sources() {
        let root = ["lib.rs", "main.rs"].map(|name| source.join(name));
        let root = root
            .iter()
            .find(|root| root.exists())
            .expect("a crate has a root");
        circles.extend(
            Crate::read(root)
                .circles()
                .iter()
                .map(|circle| format!("{}: {circle}", root.display())),
        );
    }
    assert!(
        circles.is_empty(),
        "modules that use each other:\n{}",
        circles.join("\n")
    );
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let found = |sources: &[(&str, &str)]| {
        let directory = tempfile::tempdir().unwrap();
        for (name, source) in sources {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, source).unwrap();
        }
        Crate::read(&directory.path().join("lib.rs")).circles()
    };
    let root = ("lib.rs", "mod a; mod b; pub use a::A;");
    let uses_a = ("b.rs", "use crate::A; pub struct B(A);");
    for by in [
        "use crate::{b::B}; pub struct A(B);",
        "pub struct A(crate::b::B);",
        "use super::b; pub struct A(b::B);",
        "pub struct A; fn f() { println!(\"{}\", super::b::B::default()) }",
    ] {
        assert_eq!(found(&[root, ("a.rs", by), uses_a]), ["a -> b -> a"], "{by}");
    }
    let nested = ("a.rs", "mod c; pub struct A;");
    let below = ("a/c.rs", "use crate::b::B;");
    assert_eq!(found(&[root, nested, below, uses_a]), ["a -> b -> a"]);
    for by in [
        "pub struct A;",
        "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }",
        "pub struct A; // crate::b::B",
    ] {
        assert_eq!(
            found(&[root, ("a.rs", by), uses_a]),
            <[String; 0]>::default(),
            "{by}"
        );
    }
    let child = ("a/c.rs", "use super::A;");
    let parent = ("a.rs", "mod c; pub struct A; use c::C;");
    assert_eq!(found(&[root, parent, child, uses_a]), <[String; 0]>::default());
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut found = Self::default();
        found.read_file(root, root.parent().expect("it is in a directory"), &[]);
        found
    }

    /// Reads the module in `file`. `below` is the directory of its child modules.
    fn read_file(&mut self, file: &Path, below: &Path, module: &[String]) {
        let source = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&source).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.read_items(parsed.items, below, module);
    }

    fn read_items(&mut self, items: Vec<Item>, below: &Path, module: &[String]) {
        let mut read = Module::default();
        for item in items {
            match item {
                Item::Mod(child) if !is_for_tests(&child.attrs) => {
                    let name = child.ident.to_string();
                    let (path, children) = (joined(module, &name), below.join(&name));
                    match child.content {
                        Some((_, items)) => self.read_items(items, &children, &path),
                        None => self.read_file(&children.with_extension("rs"), &children, &path),
                    }
                }
                Item::Use(item) if !is_for_tests(&item.attrs) => {
                    let (mut paths, is_public) =
                        (Vec::new(), !matches!(item.vis, syn::Visibility::Inherited));
                    expand(&item.tree, &[], &mut paths);
                    read.exports.extend(paths.iter().filter(|_| is_public).cloned());
                    read.paths.extend(paths.into_iter().map(|(_, path)| path));
                }
                Item::Mod(_) | Item::Use(_) => {}
                item => {
                    let tokens = item.to_token_stream();
                    if !tokens.to_string().starts_with("# [cfg (test)]") {
                        paths_in(tokens, &mut read.paths);
                    }
                }
            }
        }
        self.0.insert(module.to_vec(), read);
    }

    /// Returns the module that a path in the module `from` leads to, or `None` if it leads out of the crate.
    fn resolve(&self, from: &[String], path: &[String]) -> Option<Name> {
        let up = path.iter().take_while(|part| *part == "super").count();
        let (base, rest) = match path.first()?.as_str() {
            "crate" => (&[][..], &path[1..]),
            "self" => (from, &path[1..]),
            "super" => (&from[..from.len().checked_sub(up)?], &path[up..]),
            first => {
                let is_child = self.0.contains_key(&joined(from, first));
                (is_child.then_some(from)?, path)
            }
        };
        let (mut module, mut rest) = (base.to_vec(), rest);
        while let Some((first, after)) = rest.split_first() {
            let child = joined(&module, first);
            if !self.0.contains_key(&child) {
                let exports = &self.0.get(&module)?.exports;
                let export = exports.iter().find(|(name, path)| name == first && path != rest);
                return match export {
                    Some((_, path)) => self.resolve(&module, path).or(Some(module)),
                    None => Some(module),
                };
            }
            (module, rest) = (child, after);
        }
        Some(module)
    }

    /// Returns the cycles among sibling modules, each in the form `a -> b -> a`.
    fn circles(&self) -> Vec<String> {
        let mut uses: BTreeMap<Name, BTreeMap<&str, BTreeSet<String>>> = BTreeMap::new();
        for (from, module) in &self.0 {
            for to in module.paths.iter().filter_map(|path| self.resolve(from, path)) {
                let common = from
                    .iter()
                    .zip(&to)
                    .take_while(|(one, other)| one == other)
                    .count();
                if let (Some(one), Some(other)) = (from.get(common), to.get(common)) {
                    let level = uses.entry(from[..common].to_vec()).or_default();
                    level.entry(one).or_default().insert(other.clone());
                }
            }
        }
        uses.iter()
            .filter_map(|(level, uses)| circle(level, uses))
            .collect()
    }
}

/// Returns one cycle among the modules of a level, or `None` if there is none. Repeatedly removes modules
/// that use no remaining module, and then follows the uses of those that are left.
fn circle(level: &[String], uses: &BTreeMap<&str, BTreeSet<String>>) -> Option<String> {
    let mut left = uses.clone();
    loop {
        let before = left.len();
        let names: BTreeSet<String> = left.keys().map(ToString::to_string).collect();
        left.retain(|_, used| used.iter().any(|name| names.contains(name)));
        if left.len() == before {
            break;
        }
    }
    let mut path = vec![*left.keys().next()?];
    loop {
        let next = left[path[path.len() - 1]]
            .iter()
            .find_map(|name| left.get_key_value(name.as_str()));
        let (next, _) = next.expect("each of them uses another of them");
        if let Some(begin) = path.iter().position(|name| name == next) {
            let mut circle: Vec<_> = path[begin..].to_vec();
            circle.push(next);
            let parent: String = level.iter().flat_map(|part| [part.as_str(), "::"]).collect();
            return Some(format!("{parent}{}", circle.join(" -> ")));
        }
        path.push(next);
    }
}

fn joined(module: &[String], name: &str) -> Name {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    let is_test = |attribute: &Attribute| attribute.to_token_stream().to_string() == "# [cfg (test)]";
    attributes.iter().any(is_test)
}

/// Collects the paths of a `use` declaration, each with the name that it is imported under.
fn expand(tree: &UseTree, before: &[String], paths: &mut Vec<(String, Name)>) {
    match tree {
        UseTree::Path(path) => expand(&path.tree, &joined(before, &path.ident.to_string()), paths),
        UseTree::Name(name) => paths.push((name.ident.to_string(), joined(before, &name.ident.to_string()))),
        UseTree::Rename(name) => {
            paths.push((name.rename.to_string(), joined(before, &name.ident.to_string())));
        }
        UseTree::Glob(_) => paths.push(("*".to_owned(), before.to_vec())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| expand(tree, before, paths)),
    }
}

/// Collects all paths of at least two parts in any other item, including the arguments of macros.
fn paths_in(tokens: TokenStream, paths: &mut Vec<Name>) {
    let (mut path, mut colons) = (Name::new(), 0);
    for token in tokens {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Ident(ident) => {
                if colons != 2 {
                    end(&mut path, paths);
                }
                path.push(ident.to_string());
                colons = 0;
            }
            other => {
                end(&mut path, paths);
                colons = 0;
                if let TokenTree::Group(group) = other {
                    paths_in(group.stream(), paths);
                }
            }
        }
    }
    end(&mut path, paths);
}

fn end(path: &mut Name, paths: &mut Vec<Name>) {
    let path = std::mem::take(path);
    if path.len() > 1 {
        paths.push(path);
    }
}
