//! Tests what `magnetite doctor` and `magnetite topology check` report: policies, bindings, unreadable
//! messages, missing consumers, and the queues of another installation. Each test introduces a fault on a
//! private node and runs both commands.

mod bindings;
mod held;
mod installations;
mod policies;
mod roles;

use e2e::Installation;

/// The output of a command, and whether it succeeded.
struct Said {
    text: String,
    is_ok: bool,
}

/// Runs `magnetite doctor`.
async fn doctor(installation: &Installation) -> Said {
    said(installation, &["doctor"]).await
}

/// Runs `magnetite topology check`.
async fn check(installation: &Installation) -> Said {
    said(installation, &["topology", "check"]).await
}

async fn said(installation: &Installation, arguments: &[&str]) -> Said {
    let output = installation.cli(arguments).await;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Said {
        text,
        is_ok: output.status.success(),
    }
}

impl Said {
    /// Returns the lines that contain all of these words. Panics if there are none.
    #[track_caller]
    fn lines(&self, words: &[&str]) -> Vec<&str> {
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        let lines: Vec<_> = self.text.lines().filter(has_all).collect();
        assert!(!lines.is_empty(), "no line with {words:?}: {}", self.text);
        lines
    }
}
