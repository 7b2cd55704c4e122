//! `magnetite config`.

use std::{env, path::Path};

use serde_json::json;
use toml::Value;

use crate::{
    configuration::{self, Place, Setting},
    output,
    remote::{self, Chooser, Remote},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print one JSON object per line: key, value (null if not set) and source
    #[arg(long)]
    json: bool,
}

/// Prints every key with its value and its source, and which HTTP API is used, if one is.
pub(super) fn run(
    arguments: &Arguments,
    file: Option<&Path>,
    options: &remote::Options,
) -> anyhow::Result<()> {
    let settings = configuration::load_settings(file)?;
    let chooser = if configuration::is_given(file) {
        Chooser::Variables
    } else {
        Chooser::DefaultProfile
    };
    let remote = Remote::chosen(options, chooser, |name| env::var_os(name))?;
    if arguments.json {
        let of_remote = remote.iter().flat_map(remote_as_json);
        output::lines(settings.iter().map(as_json).chain(of_remote))?;
    } else {
        let of_remote = remote.iter().flat_map(remote_as_comments);
        output::lines(of_remote.chain(as_toml(&settings)))?;
    }
    Ok(())
}

fn remote_as_json(remote: &Remote) -> Vec<String> {
    let line = |(name, value, place): (&str, String, &str)| {
        let key = format!("remote.{name}");
        output::json(&json!({"key": key, "value": value, "source": place}))
    };
    remote.settings().into_iter().map(line).collect()
}

/// Returns comments, because a configuration file cannot contain these settings.
fn remote_as_comments(remote: &Remote) -> Vec<String> {
    let line = |(name, value, place): (&str, String, &str)| {
        format!("#   {name} = {}  # {place}", Value::String(value))
    };
    let heading = "# Commands that need neither the database nor the broker use this HTTP API:".to_owned();
    [heading]
        .into_iter()
        .chain(remote.settings().into_iter().map(line))
        .chain([String::new()])
        .collect()
}

fn as_json(setting: &Setting) -> String {
    let Setting { key, value, place } = setting;
    output::json(&json!({"key": key, "value": value, "source": source(place)}))
}

fn as_toml(settings: &[Setting]) -> Vec<String> {
    let (mut lines, mut last) = (Vec::new(), "");
    for Setting { key, value, place } in settings {
        let (section, name) = key.rsplit_once('.').unwrap_or_default();
        if section != last {
            if !last.is_empty() {
                lines.push(String::new());
            }
            lines.push(format!("[{section}]"));
            last = section;
        }
        let line = match value {
            Some(value) => format!("{name} = {value}"),
            None => format!("# {name} is not set"),
        };
        lines.push(match place {
            Place::Default => line,
            place => format!("{line}  # {}", source(place)),
        });
    }
    lines
}

fn source(place: &Place) -> String {
    match place {
        Place::Default => "default".to_owned(),
        place => place.to_string(),
    }
}
