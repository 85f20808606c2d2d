//! The benches' machinery: it measures something and says it in the form others read.

use std::process::Command;

use netsim::bench::BenchReport;
use netsim::netns::test_floor;

#[test]
fn a_short_throughput_bench_moves_bytes_and_reports_them_in_its_form() {
    if !test_floor() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_netsim"))
        .args(["bench", "throughput", "--quick", "--runs", "1", "--json"])
        .args(["--case", "direct", "--only", "tcp1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{error}");
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&json), ["bench", "commit", "rows"]);
    let row = ["case", "max", "median", "metric", "min", "runs", "unit"];
    assert!(json["rows"].as_array().unwrap().iter().all(|r| keys(r) == row), "{said}");
    let report: BenchReport = serde_json::from_value(json).unwrap();
    for metric in ["raw_tcp1_gbps", "pump_tcp1_gbps", "tcp1_gbps", "rss_peak_mib"] {
        let row = report.rows.iter().find(|r| r.case == "direct" && r.metric == metric);
        let row = row.unwrap_or_else(|| panic!("no {metric}: {said}"));
        assert!(row.median.is_some_and(|m| m > 0.0) && row.runs == 1, "{row:?}");
    }
}
