//! The rules of the source's layout, read from the source: imports point down, files do not import each other in
//! circles, the library names no flag.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of a file, without its tests.
const LINES_MAX: usize = 400;

/// Names that several private types may have, each in its own file.
const PRIVATE_NAMES: [&str; 2] = ["State", "Error"];

/// Modules above the layers: the root, and what it shows of them.
const ABOVE: [&str; 3] = ["lib", "unversioned", "manual"];

/// A file of the library, as a path of modules: `["upstream", "origin", "url"]`.
type Module = Vec<String>;

struct Source {
    module: Module,
    /// The code: without comments, without tests, with empty string literals.
    code: String,
    /// The string literals of the code.
    strings: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// The library's files; the programs are above all of them.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let files = files(&src).into_iter().filter(|path| !path.starts_with(src.join("bin")));
    files.map(|path| source(path.strip_prefix(&src).unwrap(), &fs::read_to_string(&path).unwrap())).collect()
}

fn source(path: &Path, text: &str) -> Source {
    let mut module: Module =
        path.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    let (code, strings) = without_literals(before_tests(text));
    Source { module, code, strings }
}

fn before_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

/// Takes comments and literals out of code.
fn without_literals(text: &str) -> (String, Vec<String>) {
    let (mut code, mut strings) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if c == '"' {
            let mut end = 1;
            while !rest[end..].starts_with('"') {
                end += if rest[end..].starts_with('\\') { 2 } else { 1 };
                while !rest.is_char_boundary(end) {
                    end += 1;
                }
            }
            strings.push(rest[1..end].to_owned());
            code.push_str("\"\"");
            rest = &rest[end + 1..];
        } else if rest.starts_with("'\"'") || rest.starts_with("b'\"'") {
            rest = &rest[rest.rfind("").map_or(0, |_| if c == 'b' { 4 } else { 3 })..];
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    (code, strings)
}

/// The rows of the table of layers in lib.rs.
fn layer_rows(text: &str) -> impl Iterator<Item = &str> {
    let (_, table) = text.split_once("//! # Layers").unwrap();
    table.lines().filter_map(|line| line.strip_prefix("//! | ")).skip(2)
}

/// The layers of the table in lib.rs, the highest first; a row is a layer.
fn layers() -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows = layer_rows(&text);
    rows.map(|row| row.split('|').next().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect())
        .collect()
}

/// The paths that code names with `crate`, `super` or `self`, as paths of the crate.
fn paths(source: &Source) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    let starts = ["crate::", "super::", "self::"];
    let code = &source.code;
    for (at, _) in code.match_indices("::") {
        let start = starts.into_iter().find(|start| {
            let begin = (at + 2).checked_sub(start.len());
            begin.is_some_and(|begin| {
                code.get(begin..at + 2) == Some(start)
                    && !code[..begin].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            })
        });
        let Some(start) = start else { continue };
        let base: Module = match start {
            "crate::" => Vec::new(),
            "self::" => source.module.clone(),
            _ => source.module[..source.module.len() - 1].to_vec(),
        };
        tree(&base, &code[at + 2..], &mut found);
    }
    found
}

/// Reads a path or a tree of paths, as behind `use`.
fn tree<'c>(base: &[String], mut code: &'c str, found: &mut BTreeSet<Module>) -> &'c str {
    let mut path = base.to_vec();
    loop {
        if let Some(inner) = code.strip_prefix('{') {
            code = inner;
            loop {
                code = tree(&path, code.trim_start(), found).trim_start();
                match code.strip_prefix(',') {
                    Some(rest) => code = rest.trim_start(),
                    None => return code.strip_prefix('}').unwrap_or(code),
                }
                if let Some(rest) = code.strip_prefix('}') {
                    return rest;
                }
            }
        }
        let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
        let (name, rest) = code.split_at(end);
        match name {
            "super" => drop(path.pop()),
            "self" | "" => {}
            name => path.push(name.to_owned()),
        }
        match rest.strip_prefix("::") {
            Some(rest) => code = rest,
            None => {
                found.insert(path);
                return rest;
            }
        }
    }
}

/// The files of the library by their modules.
struct Library(BTreeMap<Module, Source>);

impl Library {
    fn read() -> Self {
        Library(sources().into_iter().map(|source| (source.module.clone(), source)).collect())
    }

    /// The file that a path leads into: that of the item itself, where a module shows an item of another file.
    fn file_of(&self, path: &[String]) -> Option<Module> {
        let file = (1..=path.len()).rev().map(|end| &path[..end]).find(|path| self.0.contains_key(*path))?;
        let Some(name) = path.get(file.len()) else { return Some(file.to_vec()) };
        let shown = paths(&self.0[file]).into_iter();
        let mut shown = shown.filter(|path| path.last() == Some(name) && path.starts_with(file));
        let shown = shown.find(|path| path.len() > file.len() + 1);
        Some(shown.and_then(|path| self.file_of(&path)).unwrap_or_else(|| file.to_vec()))
    }

    /// Which files each file imports.
    fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let files = |source: &Source| paths(source).iter().filter_map(|path| self.file_of(path)).collect();
        self.0.iter().map(|(module, source)| (module.clone(), files(source))).collect()
    }
}

#[test]
fn imports_point_down_the_layers() {
    let layers = layers();
    let rank = |module: &Module| layers.iter().position(|layer| layer.contains(&module[0]));
    let mut wrong = Vec::new();
    for (from, to) in Library::read().imports() {
        if ABOVE.contains(&from[0].as_str()) {
            continue;
        }
        let from_rank = rank(&from).unwrap_or_else(|| panic!("lib.rs lists no layer {}", from[0]));
        for to in to.iter().filter(|to| to[0] != from[0]) {
            if rank(to).is_none_or(|to_rank| to_rank < from_rank) {
                wrong.push(format!("{} imports {}", from.join("::"), to.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn types_are_imported_from_their_modules() {
    // The root shows types of all layers: a path through it would hide which layer is meant. The command line is above all.
    let is_type = |path: &Module| path.len() == 1 && path[0].starts_with(|c: char| c.is_ascii_uppercase());
    let is_above = |module: &Module| module[0] == "cli" || ABOVE.contains(&module[0].as_str());
    for source in sources().iter().filter(|source| !is_above(&source.module)) {
        let found = paths(source).into_iter().find(is_type);
        assert_eq!(found, None, "{}", source.module.join("::"));
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = Library::read().imports();
    let edges = |from: &Module| -> Vec<&Module> {
        let related = |to: &&Module| !to.starts_with(from) && !from.starts_with(to);
        imports[from].iter().filter(related).collect()
    };
    for start in imports.keys() {
        // A way back to where it begins.
        let (mut seen, mut next) = (BTreeMap::new(), vec![start]);
        while let Some(module) = next.pop() {
            for to in edges(module) {
                if to == start {
                    let mut way = vec![module.join("::")];
                    let mut at = module;
                    while let Some(before) = seen.get(at).filter(|_| at != start) {
                        let before: &&Module = before;
                        way.push(before.join("::"));
                        at = before;
                    }
                    panic!("{} is imported by {}", start.join("::"), way.join(", imported by "));
                }
                if !seen.contains_key(to) {
                    seen.insert(to, module);
                    next.push(to);
                }
            }
        }
    }
}

#[test]
fn the_library_names_no_flag() {
    let is_flag = |text: &str| {
        text.match_indices("--").any(|(at, _)| {
            let before = text[..at].chars().next_back();
            before.is_none_or(|c| !c.is_alphanumeric() && c != '-')
                && text[at + 2..].starts_with(|c: char| c.is_ascii_lowercase())
        })
    };
    for source in sources().iter().filter(|source| source.module[0] != "cli") {
        let named = source.strings.iter().find(|text| is_flag(text));
        assert_eq!(named, None, "{}", source.module.join("::"));
    }
}

#[test]
fn questions_change_nothing() {
    for source in sources() {
        for name in ["is_", "has_", "was_", "are_"] {
            for (at, _) in source.code.match_indices(&format!("fn {name}")) {
                let head = &source.code[at..at + source.code[at..].find(['{', ';']).unwrap_or(0)];
                let place = format!("{}: {}", source.module.join("::"), head.trim_end());
                // The trait is ureq's.
                if place == "upstream::origin::transport: fn is_open(&mut self) -> bool" {
                    continue;
                }
                assert!(!head.contains("&mut self"), "{place}");
            }
        }
    }
}

#[test]
fn documentation_begins_with_a_noun_or_a_verb() {
    let riddles = ["What ", "The same", "Who ", "Whoever ", "Nobody "];
    for path in files(&root().join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        let mut is_first = true;
        for (number, line) in text.lines().map(str::trim_start).enumerate() {
            let sentence = ["/// ", "//! "].into_iter().find_map(|start| line.strip_prefix(start));
            if let Some(sentence) = sentence.filter(|_| is_first) {
                let riddle = riddles.iter().find(|riddle| sentence.starts_with(**riddle));
                assert_eq!(riddle, None, "{}:{}", path.display(), number + 1);
            }
            is_first = !line.starts_with("///") && !line.starts_with("//!");
        }
    }
}

#[test]
fn a_name_means_one_type() {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        for kind in ["struct ", "enum ", "trait ", "type "] {
            for line in source.code.lines().map(str::trim_start) {
                let Some(rest) = line.split_once(kind).filter(|(before, _)| {
                    let before = before.trim_end();
                    before.is_empty() || before == "pub" || before.starts_with("pub(")
                }) else {
                    continue;
                };
                // The associated types of a trait's implementation.
                if kind == "type " && line.contains(" = ") && !source.code.contains(&format!("\n{line}")) {
                    continue;
                }
                let name = rest.1.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                if !PRIVATE_NAMES.contains(&name) {
                    names.entry(name.to_owned()).or_default().push(source.module.join("::"));
                }
            }
        }
    }
    let twice: Vec<_> = names.iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
}

#[test]
fn files_are_short() {
    for path in files(&root().join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        let lines = before_tests(&text).lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines without its tests", path.display());
    }
}

#[test]
fn the_manual_and_the_readme_show_the_same_layers() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows = layer_rows(&text);
    // A link of rustdoc is plain elsewhere.
    let rows: Vec<String> =
        rows.map(|row| format!("| {}", row.replace("[`", "`").replace("`]", "`"))).collect();
    for page in ["README.md", "src/manual/architecture.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        assert!(text.contains(&rows.join("\n")), "{page} shows other layers than lib.rs");
    }
}

#[test]
fn the_readme_stays_short() {
    let length = fs::read(root().join("README.md")).unwrap().len();
    assert!(length <= 8 << 10, "{length} bytes");
}

#[test]
fn links_between_pages_of_the_manual_work_on_docs_rs_too() {
    let pages = root().join("src/manual");
    let known = fs::read_to_string(pages.join("mod.rs")).unwrap();
    for entry in fs::read_dir(&pages).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(".md)"), "{}: links are at the end of the page", path.display());
        for line in text.lines().filter(|line| line.starts_with('[') && line.ends_with(".md")) {
            let (name, file) = line.split_once(": ").unwrap();
            assert!(pages.join(file).is_file(), "{}: {line}", path.display());
            let module = file.trim_end_matches(".md");
            let link = format!("{name}: crate::manual::{module}\"");
            assert!(known.contains(&link), "{}: rustdoc needs {link}", path.display());
        }
    }
}
