//! The sources of configuration values, and the collection of errors in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use config::{Config, Environment, File, FileFormat, Source as _, ValueKind};

use super::{InvalidSetting, InvalidSettings, Place, Values};

const PREFIX: &str = "MAGNETITE_";
/// Variables in which clients of the HTTP API, including this program, keep their API key, the API's address, and
/// the organization that a platform key acts for.
const OF_CLIENTS: [&str; 3] = ["MAGNETITE_API_KEY", "MAGNETITE_API_URL", "MAGNETITE_ORGANIZATION"];

/// Returns the values of keys one by one and collects the errors in them.
pub(super) struct Reader {
    values: Values,
    file: Option<PathBuf>,
    /// For each key that a variable sets, the name of that variable.
    set_by: BTreeMap<String, String>,
    /// All of the process's variables whose values are text.
    variables: BTreeMap<String, String>,
    /// Every key that has been read.
    known: BTreeSet<&'static str>,
    /// The keys in the file, to find those that are unknown.
    in_file: Vec<String>,
    problems: Vec<InvalidSetting>,
}

impl Reader {
    pub(super) fn new(
        file: Option<&Path>,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, InvalidSettings> {
        let text = file.map(read_file).transpose()?.unwrap_or_default();
        let (ours, variables) = text_variables(variables)?;
        let set_by: BTreeMap<_, _> = ours
            .iter()
            .filter_map(|name| Some((key_of(name)?, name.clone())))
            .collect();
        let environment = Environment::with_prefix("MAGNETITE")
            .prefix_separator("_")
            .separator("__")
            .source(Some(
                set_by
                    .values()
                    .map(|name| (name.clone(), variables[name].clone()))
                    .collect(),
            ));
        let in_file = File::from_str(&text, FileFormat::Toml);
        let layered = Config::builder()
            .add_source(in_file.clone())
            .add_source(environment)
            .build();
        let unreadable = |_| {
            // The original error message may quote a value.
            InvalidSettings(vec![InvalidSetting {
                key: None,
                place: place_of(file),
                detail: "expected TOML tables that are compatible with the variables MAGNETITE_*".to_owned(),
            }])
        };
        Ok(Self {
            values: flatten(layered.map_err(unreadable)?.cache.kind),
            file: file.map(Path::to_owned),
            in_file: flatten(ValueKind::Table(in_file.collect().map_err(unreadable)?))
                .into_keys()
                .collect(),
            set_by,
            variables,
            known: BTreeSet::new(),
            problems: Vec::new(),
        })
    }

    /// Returns the value of `key`, or the default if it is not set or is refused. `finish` reports refusals.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&ValueKind) -> Result<T, String>,
        default: impl FnOnce() -> T,
    ) -> T {
        self.known.insert(key);
        let Some(value) = self.values.get(key) else {
            return default();
        };
        match parse(value) {
            Ok(value) => value,
            Err(detail) => {
                self.refuse(key, &detail);
                default()
            }
        }
    }

    /// Records an error in the value of `key`. Only the first error of a key is reported, because later ones
    /// result from it.
    pub(super) fn refuse(&mut self, key: &str, detail: &str) {
        if !self.is_refused(key) {
            self.problems.push(InvalidSetting {
                key: Some(key.to_owned()),
                place: self.place(key),
                detail: detail.to_owned(),
            });
        }
    }

    pub(super) fn is_refused(&self, key: &str) -> bool {
        let mut refused = self.problems.iter().map(|problem| problem.key.as_deref());
        refused.any(|refused| refused == Some(key))
    }

    /// Returns where the value of `key` is set.
    pub(super) fn place(&self, key: &str) -> Place {
        match self.set_by.get(key) {
            Some(variable) => Place::Variable(variable.clone()),
            None if self.values.contains_key(key) => place_of(self.file.as_deref()),
            None => Place::Default,
        }
    }

    /// Returns the value of the variable with this name, which need not begin with `MAGNETITE_`.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Returns the file and the variables that were read.
    pub(super) fn places(&self) -> Vec<String> {
        let file = self.file.iter().map(|file| file.display().to_string());
        file.chain(self.set_by.values().cloned()).collect()
    }

    /// Returns the value of `key` as it was given.
    pub(super) fn given(&self, key: &str) -> Option<&ValueKind> {
        self.values.get(key)
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> impl Iterator<Item = &'static str> {
        self.known.iter().copied()
    }

    /// Reports all errors. Must be called after every key has been read, because any key that has not been
    /// read is reported as unknown.
    pub(super) fn finish(mut self) -> Result<(), InvalidSettings> {
        let unknown = |key: &&String| !self.known.contains(key.as_str());
        let in_file = self
            .in_file
            .iter()
            .filter(unknown)
            .map(|key| (key, place_of(self.file.as_deref())));
        let variables = self.set_by.iter().filter(|(key, _)| unknown(key));
        let variables = variables.map(|(key, name)| (key, Place::Variable(name.clone())));
        let found: Vec<InvalidSetting> = in_file
            .chain(variables)
            .map(|(key, place)| InvalidSetting {
                key: Some(key.clone()),
                detail: self.unknown(key, &place),
                place,
            })
            .collect();
        self.problems.extend(found);
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(InvalidSettings(self.problems))
        }
    }

    fn unknown(&self, key: &str, place: &Place) -> String {
        let Some(near) = nearest(key, &self.known) else {
            return "unknown key".to_owned();
        };
        match place {
            Place::Variable(_) => format!("unknown key; did you mean {}?", variable_of(near)),
            _ => format!("unknown key; did you mean {near}?"),
        }
    }
}

fn place_of(file: Option<&Path>) -> Place {
    file.map_or(Place::Default, |file| Place::File(file.to_owned()))
}

fn read_file(path: &Path) -> Result<String, InvalidSettings> {
    let problem = |detail| {
        InvalidSettings(vec![InvalidSetting {
            key: None,
            place: Place::File(path.to_owned()),
            detail,
        }])
    };
    let text = fs::read_to_string(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                ": run the command as a user who may read it, such as `sudo -u magnetite magnetite ...` with the Debian package"
            }
            _ => "",
        };
        problem(format!("expected a readable TOML file: {error}{advice}"))
    })?;
    // The file is parsed here first, because this error can be reported without quoting the line that it is
    // in.
    toml::from_str::<toml::Table>(&text).map_err(|error| {
        let line = line_of(&text, &error);
        problem(format!("expected TOML, but line {line} is not valid"))
    })?;
    Ok(text)
}

/// Returns the number of the line that an error is in. The message of the error may quote that line, which may
/// contain a password.
pub(crate) fn line_of(text: &str, error: &toml::de::Error) -> usize {
    let before = error
        .span()
        .and_then(|span| text.get(..span.start))
        .unwrap_or_default();
    before.matches('\n').count() + 1
}

/// Returns the first in the alphabet of the variables that set a setting; `None` if none of these names is one.
pub(super) fn first_set(names: impl Iterator<Item = OsString>) -> Option<String> {
    let names = names.filter_map(|name| name.into_string().ok());
    names.filter(|name| is_ours(name)).min()
}

/// Returns the names of the variables that configure magnetite, and all variables.
fn text_variables(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(Vec<String>, BTreeMap<String, String>), InvalidSettings> {
    let (mut ours, mut all, mut problems) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (name, value) in variables {
        let Ok(name) = name.into_string() else { continue };
        let is_ours = is_ours(&name);
        match value.into_string() {
            Ok(value) => {
                all.insert(name.clone(), value);
                if is_ours {
                    ours.push(name);
                }
            }
            Err(_) if is_ours => problems.push(InvalidSetting {
                key: key_of(&name),
                place: Place::Variable(name),
                detail: "expected UTF-8".to_owned(),
            }),
            Err(_) => {}
        }
    }
    if problems.is_empty() {
        Ok((ours, all))
    } else {
        Err(InvalidSettings(problems))
    }
}

/// Returns whether a variable is meant to configure magnetite. A name with `__` is. A section's name followed
/// by a single `_` is a mistake to report, unless the name looks like one that Kubernetes sets for a service
/// called `magnetite-...`. All other variables are ignored.
fn is_ours(name: &str) -> bool {
    const SECTIONS: [&str; 16] = [
        "broker",
        "database",
        "secrets",
        "retry",
        "worker",
        "fanout",
        "defer",
        "shutdown",
        "registry",
        "journal",
        "retention",
        "endpoints",
        "egress",
        "health",
        "api",
        "log",
    ];
    if OF_CLIENTS.contains(&name) {
        return false;
    }
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let rest = rest.to_lowercase();
    let of_service = rest.contains("_service_") || rest.contains("_port_") || rest.ends_with("_port");
    let first = rest.split('_').next().unwrap_or_default();
    let of_section = SECTIONS.contains(&first);
    rest.contains("__") || (of_section && !of_service)
}

fn key_of(variable: &str) -> Option<String> {
    Some(variable.strip_prefix(PREFIX)?.to_lowercase().replace("__", "."))
}

fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// Returns the leaves of nested tables by their dotted keys. Trims white space around texts, because a value
/// that was read from a file often ends with a newline.
fn flatten(root: ValueKind) -> Values {
    fn walk(prefix: &str, kind: ValueKind, into: &mut Values) {
        let kind = match kind {
            ValueKind::Table(table) => {
                for (name, value) in table {
                    let key = if prefix.is_empty() {
                        name
                    } else {
                        format!("{prefix}.{name}")
                    };
                    walk(&key, value.kind, into);
                }
                return;
            }
            ValueKind::String(text) => ValueKind::String(text.trim().to_owned()),
            kind => kind,
        };
        into.insert(prefix.to_owned(), kind);
    }
    let mut values = Values::new();
    walk("", root, &mut values);
    values
}

/// Returns the known key that was probably meant: the one with the smallest edit distance, if that is at most
/// a third of its length.
fn nearest<'a>(key: &str, known: &BTreeSet<&'a str>) -> Option<&'a str> {
    let plain = |key: &str| key.replace(['.', '-'], "_").to_lowercase();
    let distance = |candidate: &&str| strsim::levenshtein(&plain(key), &plain(candidate));
    let near = known.iter().copied().min_by_key(distance)?;
    (distance(&near) * 3 <= near.len()).then_some(near)
}
