//! A fresh network namespace for one test.
//!
//! The namespace belongs to a thread of the test alone: it has no name, and goes when the thread
//! (and what it started) has gone, however the test ends.

#![allow(unsafe_code)]

use std::process::Command;

/// Runs `test` on a thread in a network namespace of its own. Without the privilege it prints a
/// line and returns `None`; with `THALWEG_REQUIRE_NETNS=1` it fails instead.
pub(crate) fn isolated<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let thread = std::thread::spawn(move || {
        // SAFETY: moves only the calling thread, which was made for this, and takes no pointer.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            let error = std::io::Error::last_os_error();
            let required = std::env::var_os("THALWEG_REQUIRE_NETNS").is_some_and(|v| v == "1");
            assert!(!required, "cannot make a network namespace: {error}");
            println!("skipped: cannot make a network namespace ({error}); run as root");
            return None;
        }
        Some(test())
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs `ip` with these words in the caller's namespace.
pub(crate) fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().expect("iproute2 is there");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {words}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
