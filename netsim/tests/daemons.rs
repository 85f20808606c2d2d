//! Real daemons on the namespaces floor, from a scenario file to its checks.

use std::process::Command;

use netsim::netns::test_floor;
use serde_json::json;

/// Plays a scenario to its end; all its checks must hold.
fn lab(scenario: &str) -> (serde_json::Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_netsim"))
        .args(["lab", "--json", scenario])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    let found: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
    let failed: Vec<_> =
        found["checks"].as_array().into_iter().flatten().filter(|c| c["held"] != true).collect();
    assert_eq!(output.status.code(), Some(0), "{scenario}: {failed:?}\n{error}\n{said}");
    (found, said)
}

#[test]
fn packets_take_a_faster_relay_that_cannot_read_them() {
    if !test_floor() {
        return;
    }
    let (found, said) = lab("scenarios/relay-faster.toml");
    assert!(found["relayed_share"].as_f64().unwrap() > 0.5, "{said}");
    let [searched, hits] = [0, 1].map(|i| found["payload"][i].as_u64().unwrap());
    assert!(searched > 1000 && hits == 0, "{said}");
}

#[test]
fn daemons_with_two_one_and_three_lanes_carry_every_flow_in_its_order() {
    if !test_floor() {
        return;
    }
    let (found, said) = lab("scenarios/lanes.toml");
    for flow in found["flows"].as_array().unwrap() {
        assert_eq!((&flow["reordered"], &flow["duplicates"]), (&json!(0), &json!(0)), "{flow}");
    }
    for stream in found["tcp"].as_array().unwrap() {
        assert!(stream["overlay_mbps"].as_f64().unwrap() > 1.0, "{stream}");
    }
    let mut handed_by_all = 0;
    for (site, count) in [("two", 2), ("one", 1), ("three", 3)] {
        let of = |found: &&serde_json::Value| found["site"] == site;
        let at = found["lanes"].as_array().unwrap().iter().find(of).unwrap();
        let lanes = at["lanes"].as_array().unwrap();
        assert_eq!(lanes.len(), count, "{said}");
        let above = |key: &str| lanes.iter().filter(|l| l[key].as_u64().unwrap() > 100).count();
        assert_eq!(above("ingress_packets"), count, "{site} reads every queue: {at}");
        assert_eq!(above("frames_sent"), count.min(2), "{site} shares two lanes at most: {at}");
        let handed: u64 = lanes.iter().map(|lane| lane["handed_packets"].as_u64().unwrap()).sum();
        assert!(handed == 0 || count > 1, "{site} has nobody to hand over to: {at}");
        handed_by_all += handed;
        for (peer, lanes) in [("two", 2), ("one", 1), ("three", 3)] {
            let want = (peer != site).then(|| json!(count.min(lanes)));
            assert_eq!(at["shared"].get(peer), want.as_ref(), "{at}");
        }
        for why in ["lane_full", "lane_stray_full", "replayed", "bad_tag", "end_replayed"] {
            assert_eq!(at["dropped"].get(why), None, "{at}");
        }
    }
    // Which queue a flow is read from the kernel decides; one site's flows may by chance all be read where
    // they are sent.
    assert!(handed_by_all > 100, "who has more lanes hands over to who has fewer: {said}");
}
