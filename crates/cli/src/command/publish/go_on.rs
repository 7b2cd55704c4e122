//! The command that publishes the rest of the input.

use std::{borrow::Cow, env};

/// The option that names the first line to publish.
const FROM_LINE: &str = "--from-line";

/// Returns a message that says which lines are done, and the command that publishes the rest.
pub(super) fn go_on(line: u64) -> String {
    let arguments = env::args_os().skip(1);
    let arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    format!(
        "Every valid line before {line} is published; to continue:\n  {}",
        command(arguments, line)
    )
}

/// Returns the command with these arguments, for a shell, but from this line on.
fn command(mut arguments: impl Iterator<Item = String>, line: u64) -> String {
    let mut words = vec!["magnetite".to_owned()];
    while let Some(argument) = arguments.next() {
        if argument == FROM_LINE {
            arguments.next();
        } else if !argument.starts_with("--from-line=") {
            words.push(quoted(&argument).into_owned());
        }
    }
    // What follows `--` is not an option.
    let options_end = words.iter().position(|word| word == "--");
    let at = options_end.unwrap_or(words.len());
    words.splice(at..at, [FROM_LINE.to_owned(), line.to_string()]);
    words.join(" ")
}

/// Returns a text as one word of a shell's command.
fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_./:@%+=,".contains(char);
    if !text.is_empty() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_keeps_every_option_and_its_words() {
        for (given, expected) in [
            (&["publish"][..], "magnetite publish --from-line 7"),
            (
                &[
                    "--organization",
                    "org_1",
                    "publish",
                    "a.jsonl",
                    "--wait=5m",
                    "--json",
                ],
                "magnetite --organization org_1 publish a.jsonl --wait=5m --json --from-line 7",
            ),
            (
                &[
                    "publish",
                    "--from-line",
                    "3",
                    "my events.jsonl",
                    "--profile",
                    "it's",
                ],
                r"magnetite publish 'my events.jsonl' --profile 'it'\''s' --from-line 7",
            ),
            (
                &["publish", "--from-line=3", "--", "-x"],
                "magnetite publish --from-line 7 -- -x",
            ),
            (&["publish", ""], "magnetite publish '' --from-line 7"),
        ] {
            let given = given.iter().copied().map(str::to_owned);
            assert_eq!(command(given, 7), expected);
        }
    }
}
