//! The file in which contexts are kept: one for each user, below `$XDG_CONFIG_HOME`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::files;

/// Where a server is, as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contexts {
    /// The one that is used where nothing else is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    pub contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// None are there when there is no file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let failure = |problem: String| Failure::new(Exit::Failed, format!("{}: {problem}", path.display()));
        let text = match files::read_text(path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Self::default());
            }
            Err(error) => return Err(failure(error.to_string())),
        };
        toml::from_str(&text).map_err(|error| failure(error.to_string()))
    }

    /// Others see the contexts of before or these.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).expect("names and addresses are texts");
        files::keep(path, text.as_bytes())
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", path.display())))
    }

    pub fn get(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let nearest = serve::settings::nearest(name, self.contexts.keys().map(String::as_str));
            let hint = nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default();
            Failure::new(Exit::NotFound, format!("there is no context {name}{hint}"))
        })
    }
}

/// Where the file is, by these variables. An `XDG_CONFIG_HOME` that is not absolute counts as none, as its
/// specification says.
pub fn path(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let of = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = of("XDG_CONFIG_HOME").or_else(|| Some(of("HOME")?.join(".config")))?;
    Some(folder.join("carillon").join("contexts.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_below_the_users_folder_of_settings() {
        let with = |xdg: Option<&str>, home: Option<&str>| {
            let (xdg, home) = (xdg.map(std::ffi::OsString::from), home.map(std::ffi::OsString::from));
            path(|name| if name == "HOME" { home.clone() } else { xdg.clone() })
        };
        let at = |path: &str| Some(PathBuf::from(path));
        assert_eq!(with(Some("/x"), Some("/h")), at("/x/carillon/contexts.toml"));
        assert_eq!(with(Some("x"), Some("/h")), at("/h/.config/carillon/contexts.toml"));
        assert_eq!(with(None, Some("/h")), at("/h/.config/carillon/contexts.toml"));
        assert_eq!(with(Some(""), None), None);
    }
}
