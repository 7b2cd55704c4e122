//! Runs processes with a wrong wall clock, by means of a preloaded library that adds an offset to every
//! reading.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::Command;

/// A wall clock that is ahead, for selected processes.
pub struct ShiftedClock {
    library: PathBuf,
    ahead: Duration,
}

/// The C source of the library. It reads the kernel's clock with direct system calls, which it does not
/// replace. It shifts only the wall clock, as if the system's time had been set.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t ahead(void) {
    const char *seconds = getenv("E2E_CLOCK_AHEAD_S");
    return seconds ? atoll(seconds) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    int failed = syscall(SYS_gettimeofday, at, zone);
    if (!failed && at) at->tv_sec += ahead();
    return failed;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"#;

impl ShiftedClock {
    /// Compiles the library into `directory`. The clock is ahead by whole seconds.
    pub async fn ahead_by(ahead: Duration, directory: &Path) -> Self {
        let (source, library) = (directory.join("clock.c"), directory.join("clock.so"));
        fs::write(&source, SOURCE).unwrap();
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source]);
        let compiled = compiler.status().await;
        assert!(
            compiled.as_ref().is_ok_and(std::process::ExitStatus::success),
            "cc does not compile a shared library ({compiled:?}): apt-get install gcc libc6-dev"
        );
        Self { library, ahead }
    }

    /// Makes this command, which must not have been started yet, run with the shifted clock.
    pub fn shift(&self, mut command: Command) -> Command {
        command.env("LD_PRELOAD", &self.library);
        command.env("E2E_CLOCK_AHEAD_S", self.ahead.as_secs().to_string());
        command
    }
}
