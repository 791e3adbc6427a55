//! Reads `src/` as syntax trees, tests left out: what each file imports, declares and names.
//! `syn` does the parsing; macros' arguments are read as tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem::take;
use std::path::Path;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// A path in pieces: of a module, or of what is imported.
pub type Names = Vec<String>;

/// A function's or a file's length.
pub struct Length {
    pub what: String,
    pub lines: usize,
    /// A line `// long: why` stands before it, or, for a file, anywhere.
    pub is_excused: bool,
}

/// What one source file says, tests left out.
#[derive(Default)]
pub struct Source {
    /// Path below `src/`.
    pub path: String,
    pub module: Names,
    pub text: String,
    /// Every path, one for each entry of a `use` group.
    pub paths: BTreeSet<Names>,
    /// What `use` names here, which its children may name too: the name, and where it comes from.
    pub names: BTreeMap<String, Names>,
    /// Types that are declared here.
    pub types: Vec<String>,
    pub lengths: Vec<Length>,
    /// Functions that are declared here.
    pub functions: Vec<String>,
    pub macros: BTreeSet<String>,
    /// Methods that are called.
    pub calls: BTreeSet<String>,
    /// Statics, with the words of their types; `mut` where they are mutable.
    pub statics: BTreeMap<String, BTreeSet<String>>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let stem = path.trim_end_matches(".rs").trim_end_matches("/mod");
        let module = stem.split('/').filter(|part| *part != "lib").map(str::to_owned).collect();
        let (path, text) = (path.to_owned(), text.to_owned());
        let mut source = Self { path, module, text, ..Self::default() };
        let file = syn::parse_file(&source.text).unwrap();
        source.visit_file(&file);
        let tests = source.text.find("\n#[cfg(test)]\nmod ").unwrap_or(source.text.len());
        let code = &source.text[..tests];
        let is_excused = code.contains("// long: ");
        let lines = code.lines().count();
        source.lengths.push(Length { what: "the file".into(), lines, is_excused });
        source
    }

    /// The module of the top floor that the file belongs to.
    pub fn top(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    /// All words of its paths.
    pub fn words(&self) -> BTreeSet<&str> {
        self.paths.iter().chain(self.names.values()).flatten().map(String::as_str).collect()
    }

    fn flatten(&mut self, tree: &syn::UseTree, mut path: Names) {
        match tree {
            syn::UseTree::Path(next) => {
                path.push(next.ident.to_string());
                self.flatten(&next.tree, path);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.flatten(tree, path.clone()));
            }
            syn::UseTree::Glob(_) => drop(self.paths.insert(path)),
            syn::UseTree::Name(syn::UseName { ident })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                if ident != "self" {
                    path.push(ident.to_string());
                }
                let name = match tree {
                    syn::UseTree::Rename(renamed) => renamed.rename.to_string(),
                    _ => path.last().unwrap().clone(),
                };
                self.names.insert(name, path);
            }
        }
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Names::new();
        for token in tokens {
            match token {
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Punct(sign) if sign.as_char() == ':' => {}
                other => {
                    self.paths.insert(take(&mut path));
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.paths.insert(path);
    }

    fn function(&mut self, name: &syn::Ident, item: Span) {
        let (first, last) = (item.start().line, item.end().line);
        let before = self.text.lines().skip(first.saturating_sub(14)).take(14);
        let is_excused = before.into_iter().any(|line| line.contains("// long: "));
        let what = format!("`{name}`");
        self.lengths.push(Length { what, lines: last - first + 1, is_excused });
        self.functions.push(name.to_string());
    }
}

impl<'ast> Visit<'ast> for Source {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            syn::Item::Mod(item) if is_test(&item.attrs) => return,
            syn::Item::Fn(item) if is_test(&item.attrs) => return,
            syn::Item::Impl(item) if is_test(&item.attrs) => return,
            syn::Item::Use(item) if is_test(&item.attrs) => return,
            syn::Item::Use(item) => {
                self.flatten(&item.tree, Names::new());
                return;
            }
            syn::Item::Fn(item) => self.function(&item.sig.ident, item.block.span()),
            syn::Item::Struct(item) => self.types.push(item.ident.to_string()),
            syn::Item::Enum(item) => self.types.push(item.ident.to_string()),
            syn::Item::Trait(item) => self.types.push(item.ident.to_string()),
            syn::Item::Static(item) => {
                let mut of = Self::default();
                of.visit_type(&item.ty);
                let mut words: BTreeSet<_> = of.words().into_iter().map(str::to_owned).collect();
                if matches!(item.mutability, syn::StaticMutability::Mut(_)) {
                    words.insert("mut".to_owned());
                }
                self.statics.insert(item.ident.to_string(), words);
            }
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            self.function(&item.sig.ident, item.block.span());
            visit::visit_impl_item_fn(self, item);
        }
    }

    /// `pub(super)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.paths.insert(path.segments.iter().map(|part| part.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.calls.insert(call.method.to_string());
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.macros.insert(call.path.segments.last().unwrap().ident.to_string());
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        list.path.is_ident("cfg") && list.tokens.to_string() == "test"
    })
}

/// Every source file below `src/` outside tests.
pub fn sources() -> Vec<Source> {
    let found = sources_of("src");
    assert!(found.len() > 100, "src/ was not read");
    found
}

/// Every source file below a folder of the project outside tests.
pub fn sources_of(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for path in entries.collect::<BTreeSet<_>>() {
        let name = path.file_stem().unwrap().to_string_lossy();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        } else if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let below = path.strip_prefix(root).unwrap().to_string_lossy();
            found.push(Source::new(&below, &fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The files, and which of them each one's paths lead to.
pub struct House<'a> {
    files: BTreeMap<&'a [String], &'a Source>,
}

impl<'a> House<'a> {
    pub fn new(sources: &'a [Source]) -> Self {
        Self { files: sources.iter().map(|source| (source.module.as_slice(), source)).collect() }
    }

    /// The files that one depends on: those that declare what it names.
    pub fn imports(&self, of: &Source) -> BTreeSet<&'a str> {
        let paths = of.paths.iter().chain(of.names.values());
        paths.filter_map(|path| self.resolve(&of.module, path, 8)).collect()
    }

    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<&'a str> {
        let ups = path.iter().take_while(|name| *name == "super").count();
        let mut at: Names = match path.first()?.as_str() {
            "crate" => Names::new(),
            "super" | "self" => module[..module.len().checked_sub(ups)?].to_vec(),
            name => [module, &[name.to_owned()]].concat(),
        };
        if !self.files.contains_key(at.as_slice()) && !at.is_empty() {
            return None;
        }
        let mut rest = &path[ups.max(1)..];
        while let Some(name) = rest.first() {
            let deeper = [at.as_slice(), std::slice::from_ref(name)].concat();
            if !self.files.contains_key(deeper.as_slice()) {
                break;
            }
            at = deeper;
            rest = &rest[1..];
        }
        let file = self.files.get(at.as_slice())?;
        let exported = rest.first().and_then(|name| file.names.get(name));
        match exported.filter(|_| depth > 0) {
            Some(path) => self.resolve(&at, path, depth - 1).or(Some(&file.path)),
            None => Some(&file.path),
        }
    }

    /// Pairs of files on a circle of imports.
    pub fn circles(&self) -> Vec<String> {
        let files = self.files.values();
        let graph: BTreeMap<&str, BTreeSet<&str>> =
            files.map(|source| (source.path.as_str(), self.imports(source))).collect();
        let reaches = |from: &str, to: &str| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
            while let Some(file) = next.pop() {
                if file == to {
                    return true;
                }
                if seen.insert(file) {
                    next.extend(graph.get(file).into_iter().flatten());
                }
            }
            false
        };
        let arrows = graph.iter().flat_map(|(from, all)| all.iter().map(move |to| (*from, *to)));
        let circular = arrows.filter(|(from, to)| from != to && reaches(to, from));
        circular.map(|(from, to)| format!("{from} -> {to}")).collect()
    }
}
