//! What `magnetite doctor` and `magnetite topology check` see: policies, bindings, messages that nobody can
//! read, consumers that are missing, another installation's queues. Each test plants a fault on a node of its
//! own and asks both.

mod bindings;
mod held;
mod installations;
mod policies;
mod roles;

use e2e::Installation;

/// What a command printed, and whether it ended well.
struct Said {
    text: String,
    is_ok: bool,
}

/// What `magnetite doctor` says.
async fn doctor(installation: &Installation) -> Said {
    said(installation, &["doctor"]).await
}

/// What `magnetite topology check` says.
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
    /// The lines that have all these words, at least one.
    #[track_caller]
    fn lines(&self, words: &[&str]) -> Vec<&str> {
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        let lines: Vec<_> = self.text.lines().filter(has_all).collect();
        assert!(!lines.is_empty(), "no line with {words:?}: {}", self.text);
        lines
    }
}
