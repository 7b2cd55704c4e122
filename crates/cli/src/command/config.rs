//! `magnetite config`.

use std::path::Path;

use serde_json::json;

use crate::{
    configuration::{self, Place, Setting},
    output,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print one JSON object per line: key, value (null if not set) and source
    #[arg(long)]
    json: bool,
}

/// Prints every key with its value and its source.
pub(super) fn run(arguments: &Arguments, file: Option<&Path>) -> anyhow::Result<()> {
    let settings = configuration::load_settings(file)?;
    if arguments.json {
        output::lines(settings.iter().map(as_json))?;
    } else {
        output::lines(as_toml(&settings))?;
    }
    Ok(())
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
