//! What is said to a server on its command line, whichever server it is.

use std::path::PathBuf;

use clap::Args;

use crate::files;
use crate::process::{Exit, Failure};
use crate::settings::{Layers, Settings};

#[derive(Debug, Clone, Default, Args)]
pub struct Arguments {
    /// A file with settings, TOML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A setting, such as http.listen=127.0.0.1:8080; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Arguments {
    /// Adds what the file and the environment say. Presets come before that, flags for single keys after it.
    pub fn add<C: Settings>(
        &self,
        layers: &mut Layers<C>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), Failure> {
        if let Some(file) = &self.config {
            let name = file.display().to_string();
            let text = files::read_text(file)
                .map_err(|error| Failure::new(Exit::Configuration, format!("--config {name}: {error}")))?;
            layers.file(&name, &text);
        }
        layers.environment(variables);
        Ok(())
    }

    /// The settings, after `--set`.
    pub fn build<C: Settings>(&self, mut layers: Layers<C>) -> Result<C, Failure> {
        for assignment in &self.set {
            layers.assignment("--set", assignment);
        }
        layers.build().map_err(|refused| Failure::new(Exit::Configuration, refused.to_string()))
    }
}
