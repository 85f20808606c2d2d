//! How the laboratory behaves towards the machine: it leaves nothing behind, also when interrupted,
//! and says in one line what is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use netsim::netns::{sys, test_floor};

const NETSIM: &str = env!("CARGO_BIN_EXE_netsim");

/// Waits until `holds`, for at most `seconds`; whether it came to hold.
fn wait_for(seconds: u64, mut holds: impl FnMut() -> bool) -> bool {
    for _ in 0..seconds * 20 {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

fn namespaces_of(pid: u32) -> usize {
    let prefix = format!("tw{pid}-");
    let Ok(entries) = fs::read_dir("/run/netns") else { return 0 };
    entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).count()
}

/// Processes whose parent is `pid`.
fn children_of(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after.split_whitespace().nth(1) == Some(&pid.to_string())
    })
    .collect()
}

#[test]
fn an_interrupted_demo_leaves_no_namespace_process_or_file() {
    if !test_floor() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let mut demo = Command::new(NETSIM)
        .arg("demo")
        .env("TMPDIR", tmp.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = demo.id();
    let up = wait_for(30, || namespaces_of(pid) == 5 && children_of(pid).len() == 5);
    // Some of what it does when it is interrupted should be the mesh's forming, and the flows'.
    std::thread::sleep(Duration::from_secs(4));
    let children = children_of(pid);
    sys::signal(pid, 2).unwrap();
    let ended = wait_for(15, || matches!(demo.try_wait(), Ok(Some(_))));
    if !ended {
        demo.kill().unwrap();
    }
    let output = demo.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(up && ended, "up {up}, ended {ended}: {said}");
    assert!(output.status.success(), "{:?}: {said}", output.status);
    assert_eq!(namespaces_of(pid), 0);
    let left: Vec<_> = children.into_iter().filter(|child| sys::is_alive(*child)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0, "its temporary directory is gone");
}

#[test]
fn without_root_there_is_one_clear_line() {
    if !sys::is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    // Where anybody may execute it.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("netsim");
    fs::copy(NETSIM, &copy).unwrap();
    const NOBODY: u32 = 65_534;
    let output = Command::new(&copy).arg("demo").uid(NOBODY).gid(NOBODY).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("root"), "{said}");
    assert!(output.stdout.is_empty());
}
