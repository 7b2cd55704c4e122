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
    let given_by = configuration::given_by(file);
    let chooser = match given_by {
        Some(_) => Chooser::Variables,
        None => Chooser::DefaultProfile,
    };
    let chosen = match Remote::chosen(options, chooser, |name| env::var_os(name))? {
        Some(remote) => Chosen::Api(remote),
        None => Chosen::Direct(given_by),
    };
    if arguments.json {
        output::lines(settings.iter().map(as_json).chain(chosen.as_json()))?;
    } else {
        output::lines(chosen.as_comments().into_iter().chain(as_toml(&settings)))?;
    }
    Ok(())
}

/// What the commands use that work in both ways.
enum Chosen {
    Api(Remote),
    /// The database and the broker; contains the reason why there is a configuration, if there is one.
    Direct(Option<Place>),
}

impl Chosen {
    fn as_json(&self) -> Vec<String> {
        let (value, source, settings) = match self {
            Self::Api(remote) => ("api", remote.place().to_owned(), remote_as_json(remote)),
            Self::Direct(given_by) => {
                let source = source(given_by.as_ref().unwrap_or(&Place::Default));
                ("direct", source, Vec::new())
            }
        };
        let way = output::json(&json!({"key": "way", "value": value, "source": source}));
        [way].into_iter().chain(settings).collect()
    }

    /// Returns comments, because a configuration file cannot contain these settings.
    fn as_comments(&self) -> Vec<String> {
        match self {
            Self::Api(remote) => remote_as_comments(remote),
            Self::Direct(given_by) => {
                let way = "# Commands use the database and the broker, because no HTTP API is set.";
                let unused = given_by.as_ref().and_then(|place| {
                    let profile = Remote::of_default_profile(|name| env::var_os(name))?;
                    Some(format!("# Note: {}.", profile.unused(place)))
                });
                let lines = [way.to_owned()].into_iter().chain(unused);
                lines.chain([String::new()]).collect()
            }
        }
    }
}

fn remote_as_json(remote: &Remote) -> Vec<String> {
    let line = |(name, value, place): (&str, String, &str)| {
        let key = format!("remote.{name}");
        output::json(&json!({"key": key, "value": value, "source": place}))
    };
    remote.settings().into_iter().map(line).collect()
}

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
