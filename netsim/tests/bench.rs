//! The benches' machinery: it measures something and says it in the form others read.

use std::process::Command;
use std::time::Duration;

use netsim::bench::BenchReport;
use netsim::bench::pair::{LineSpec, Pair, stream};
use netsim::netns::{sys, test_floor};

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

#[test]
fn a_plain_stream_over_a_line_of_one_delay_product_fills_it_and_waits_in_its_queue() {
    if !test_floor() {
        return;
    }
    let line = LineSpec::full_queue(20_000_000, Duration::from_millis(20));
    assert_eq!(line.params.queue_bytes, 50_000);
    let pair = Pair::without_tunnel(&line, 1).unwrap();
    let before = pair.read("test").unwrap();
    let stream = stream(pair.bare(), "cubic", Duration::from_secs(60)).unwrap();
    sys::sleep_until_ns(sys::monotonic_ns() + 2_000_000_000);
    let after = pair.read("test").unwrap();
    let mbit = stream.bytes() as f64 * 8.0 / after.seconds_since(&before) / 1e6;
    // Not more than the line; how much less depends on who else uses this machine.
    assert!((5.0..20.0).contains(&mbit), "{mbit}");
    let most = after.queueing.quantile_ms(1.0).unwrap();
    assert!((5.0..=20.1).contains(&most), "{most} ms in a queue of 20");
    assert!(after.sent.is_none() && after.line.delivered > before.line.delivered);
}

#[test]
fn a_cell_with_real_daemons_counts_what_repair_costs_and_leaves() {
    if !test_floor() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_netsim"))
        .args(["bench", "recovery", "--namespaces", "--quick", "--json"])
        .args(["--only", "iid5_rtt20_pps1000_d45"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let report: BenchReport = serde_json::from_str(&said).unwrap();
    let figure = |metric: &str| {
        let row = report.rows.iter().find(|r| r.metric == metric);
        row.and_then(|r| r.median).unwrap_or_else(|| panic!("no {metric}: {said}"))
    };
    // 5 % are lost and sent again; nothing is said of how well: a machine that stops for a tenth of a second
    // makes as many packets late.
    assert!((0.005..0.5).contains(&figure("overhead")), "{said}");
    assert!((0.05..0.2).contains(&figure("framing")) && figure("feedback_bytes") > 0.0, "{said}");
    assert!(figure("residual") < 0.3, "{said}");
    assert!(figure("delay_p50_ms") < 100.0, "over the line's own: {said}");
}
