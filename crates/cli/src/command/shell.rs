//! `magnetite completions` and `magnetite man`.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::output;

const NAME: &str = "magnetite";

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell to generate completions for
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// The directory to write the pages of all commands to, such as magnetite-endpoint-create.1; without it,
    /// only the page of magnetite is printed
    directory: Option<PathBuf>,
}

/// Prints the completion script.
pub(super) fn completions(arguments: &Completions) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut super::Arguments::command(),
        NAME,
        &mut script,
    );
    Ok(output::bytes(&script)?)
}

/// Prints the page of `magnetite`, or writes the pages of all commands to a directory.
pub(super) fn man(arguments: &Man) -> anyhow::Result<()> {
    let command = super::Arguments::command();
    let Some(directory) = &arguments.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return Ok(output::bytes(&page)?);
    };
    fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(command, directory))
        .with_context(|| format!("cannot write the pages to {}", directory.display()))
}
