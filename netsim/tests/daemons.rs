//! Real daemons on the namespaces floor, from a scenario file to its checks.

use std::process::Command;

use netsim::netns::test_floor;

#[test]
fn packets_take_a_faster_relay_that_cannot_read_them() {
    if !test_floor() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_netsim"))
        .args(["lab", "--json", "scenarios/relay-faster.toml"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{error}");
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(found["relayed_share"].as_f64().unwrap() > 0.5, "{said}");
    let [searched, hits] = [0, 1].map(|i| found["payload"][i].as_u64().unwrap());
    assert!(searched > 1000 && hits == 0, "{said}");
}
