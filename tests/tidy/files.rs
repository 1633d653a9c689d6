//! The repository's own text files, without what is built or downloaded.

use std::fs;
use std::path::Path;

/// Directories that hold nothing of ours.
const SKIPPED: [&str; 5] = ["target", ".git", "node_modules", "__pycache__", "uplot"];

/// Names that end like this are text.
const TEXT: [&str; 11] = ["rs", "py", "sh", "js", "md", "toml", "json", "lock", "html", "txt", "run"];

/// A text file of the repository.
pub(crate) struct File {
    /// From the repository's root, with slashes.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl File {
    /// Whether the path starts with `directory`, which ends with a slash.
    pub(crate) fn is_below(&self, directory: &str) -> bool {
        self.path.starts_with(directory)
    }

    /// Whether the name ends with a dot and `extension`.
    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        self.path.strip_suffix(extension).is_some_and(|stem| stem.ends_with('.'))
    }

    /// Whether somebody programmed this.
    pub(crate) fn is_code(&self) -> bool {
        self.path == ".ci/run" || ["rs", "py", "sh", "js"].iter().any(|extension| self.has_extension(extension))
    }
}

/// All text files, in no particular order.
pub(crate) fn repository_files() -> Vec<File> {
    let mut files = Vec::new();
    collect(root(), &mut files);
    files
}

/// Whether there is a file or directory at `path`, from the repository's root.
pub(crate) fn exists(path: &str) -> bool {
    root().join(path).exists()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(directory: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(directory).expect("the repository can be read") {
        let path = entry.expect("the repository can be read").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy();
        if path.is_dir() {
            if !SKIPPED.contains(&&*name) {
                collect(&path, files);
            }
        } else if TEXT.contains(&name.rsplit('.').next().unwrap_or_default()) {
            let path_from_root = path.strip_prefix(root()).expect("found below the root").to_string_lossy();
            let text = fs::read_to_string(&path).expect("a source file is UTF-8");
            files.push(File { path: path_from_root.into_owned(), text });
        }
    }
}
