//! The Rust sources of this repository, as text. Generated code is not among them: it lies below `target`.

use std::fs;
use std::path::{Path, PathBuf};

/// One file.
pub struct Source {
    /// From the repository's root on.
    pub path: PathBuf,
    pub text: String,
}

impl Source {
    /// The part before the tests; nothing of a file that is all tests.
    pub fn production(&self) -> &str {
        let tests_from = match self.is_test() {
            true => 0,
            false => self.text.find("\n#[cfg(test)]\n").map_or(self.text.len(), |at| at + 1),
        };
        &self.text[..tests_from]
    }

    /// Whether it holds nothing but tests.
    pub fn is_test(&self) -> bool {
        let is_beside = self.path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("_tests"));
        is_beside
            || self.path.components().any(|part| part.as_os_str() == "tests") && !self.path.starts_with("tests/src")
    }

    /// `path:line: text` of each line that has `part` in it.
    pub fn lines_with(&self, part: &str) -> Vec<String> {
        let path = self.path.display();
        let hits = self.text.lines().enumerate().filter(|(_, line)| line.contains(part));
        hits.map(|(number, line)| format!("{path}:{}: {}", number + 1, line.trim())).collect()
    }
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies below the root")
}

/// Every file, in the order of paths.
pub fn all() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("folders of the repository can be read") {
            let entry = entry.expect("folders of the repository can be read");
            let (path, name) = (entry.path(), entry.file_name());
            let is_ours = name != "target" && !name.to_string_lossy().starts_with('.');
            if is_ours && path.is_dir() {
                folders.push(path);
            } else if is_ours && path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                found.push(Source { path: path.strip_prefix(root()).expect("below the root").to_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}
