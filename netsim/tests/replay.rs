//! Recorded round trips, played and judged from end to end.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::{Compression, write::GzEncoder};
use netsim::record::Record;
use netsim::replay::{self, Plan, Played, Sinks};
use netsim::score::{self, Ask, Figure, Part};
use thalweg::probe::model::Model;

fn plan(from: u32, every: u32, horizons: &[u32]) -> Plan {
    Plan {
        from,
        every,
        horizons: horizons.to_vec(),
        step: None,
        model: Some(Arc::new(Model::shipped())),
        seed: 1,
    }
}

/// Plays files; forecasts, choices and shifts as text.
fn play(files: &[PathBuf], plan: &Plan) -> (Played, [String; 3]) {
    let mut out = [Vec::new(), Vec::new(), Vec::new()];
    let [forecasts, choices, shifts] = &mut out;
    let sinks = Sinks { forecasts: Some(forecasts), choices: Some(choices), shifts: Some(shifts) };
    let played = replay::run(files, plan, sinks).unwrap();
    (played, out.map(|bytes| String::from_utf8(bytes).unwrap()))
}

/// A matrix file: `values` for each slice, `[from][to]`.
fn matrix(first: u32, nodes: u32, values: &[Vec<f32>]) -> Vec<u8> {
    let mut bytes = b"RTTM".to_vec();
    for word in [first, values.len() as u32, nodes] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(values.iter().flatten().flat_map(|v| v.to_le_bytes()));
    bytes
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let file = dir.join(name);
    std::fs::write(&file, bytes).unwrap();
    file
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

/// Four nodes whose direct way from 0 to 3 is long and over 1 short; a little noise, so that rows are new.
fn four(slice: u32) -> Vec<f32> {
    let mut values = vec![0.0; 16];
    for from in 0..4_usize {
        for to in (0..4).filter(|to| *to != from) {
            let far = from.min(to) == 0 && from.max(to) == 3;
            let noise = (slice * 7 + from as u32 * 3 + to as u32) % 5;
            values[from * 4 + to] = if far { 100.0 } else { 20.0 } + noise as f32 / 10.0;
        }
    }
    values
}

fn figure<'a>(figures: &'a [Figure], metric: &str) -> &'a Figure {
    figures.iter().find(|f| f.metric == metric).unwrap()
}

#[test]
fn a_small_mesh_is_played_and_the_relay_is_found_and_judged() {
    let dir = tempfile::tempdir().unwrap();
    let slices: Vec<_> = (5..25).map(four).collect();
    let first = write(dir.path(), "m-240s-a.rttm.gz", &gzipped(&matrix(5, 4, &slices[..12])));
    let second = write(dir.path(), "m-240s-b.rttm", &matrix(17, 4, &slices[12..]));
    let files = [second, first];
    let (played, [forecasts, choices, _]) = play(&files, &plan(8, 4, &[1, 2]));
    assert_eq!((played.steps, played.readings, played.gaps), (20, 240, 0));
    assert_eq!(played.step_s, 240.0, "told by the name");
    let mut lines = choices.lines();
    assert_eq!(lines.next(), Some("slice,from,to,via"));
    let said: Vec<&str> = lines.collect();
    assert_eq!(said.len(), 5 * 12, "slices 8, 12, 16, 20, 24");
    assert!(said.contains(&"8,0,1,-") && said.contains(&"24,3,1,-"));
    let far: Vec<_> = said.iter().filter(|l| l.contains(",0,3,")).collect();
    assert!(far.iter().all(|l| l.ends_with(",1") || l.ends_with(",2")), "{far:?}");
    assert_eq!(forecasts.lines().next(), Some("slice,h,from,to,rtt_ms"));
    assert_eq!(forecasts.lines().count(), 1 + 5 * 2 * 12);
    let choices = write(dir.path(), "c.csv", choices.as_bytes());
    let forecasts = write(dir.path(), "f.csv", forecasts.as_bytes());
    let ask = Ask {
        choices: Some(choices),
        forecasts: Some(forecasts),
        horizons: vec![1],
        ..Ask::default()
    };
    let figures = score::run(&files, &ask).unwrap();
    let kept = figure(&figures, "kept");
    assert!(kept.value.unwrap() > 0.98, "{kept:?}");
    assert_eq!(kept.of, 4 * 12, "slice 24 has nothing after it");
    assert_eq!(figure(&figures, "much_worse").value, Some(0.0));
    assert!(figure(&figures, "mae_ms").value.unwrap() < 0.5);
}

#[test]
fn a_row_that_repeats_the_slice_before_is_no_new_sample() {
    let dir = tempfile::tempdir().unwrap();
    let slices: Vec<_> = (0..12).map(|s| four(s / 4)).collect();
    let file = write(dir.path(), "m.rttm", &matrix(1, 4, &slices));
    let (played, _) = play(&[file], &plan(1, 1, &[1]));
    assert_eq!(played.readings, 3 * 12);
    assert_eq!(played.step_s, 15.7, "slices finer than sweeps");
}

#[test]
fn nothing_that_is_written_knows_what_comes_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut slices: Vec<_> = (0..30).map(four).collect();
    let short = write(dir.path(), "short.rttm", &matrix(1, 4, &slices[..20]));
    for late in &mut slices[20..] {
        late.iter_mut().for_each(|v| *v *= 9.0);
    }
    let long = write(dir.path(), "long.rttm", &matrix(1, 4, &slices));
    let (_, short) = play(&[short], &plan(3, 2, &[1]));
    let (_, long) = play(&[long], &plan(3, 2, &[1]));
    for (short, long) in short.iter().zip(&long) {
        assert!(long.starts_with(short.as_str()));
    }
    let mut text = String::from("trace,epoch_s,rtt_ms,changepoint\n");
    for at in 0..300_u64 {
        text += &format!("a,{},{}.5,0\n", 1000 + at * 240, 40 + at * 7 % 11);
    }
    let short = write(dir.path(), "short.csv", text.as_bytes());
    for at in 300..400_u64 {
        text += &format!("a,{},900.5,1\n", 1000 + at * 240);
    }
    let long = write(dir.path(), "long.csv", text.as_bytes());
    let (_, short) = play(&[short], &plan(1, 1, &[1, 3]));
    let (played, long) = play(&[long], &plan(1, 1, &[1, 3]));
    assert!(long[0].starts_with(&short[0]) && short[0].lines().count() == 601);
    assert_eq!(played.shifts, 1);
    assert_eq!(long[2], "trace,epoch_s\na,73240\n", "seen at its second sample");
}

#[test]
fn the_committed_traces_are_forecast_better_than_by_their_last_value() {
    let dir = tempfile::tempdir().unwrap();
    let wide = std::fs::read_to_string("../tests/data/atlas-3-traces.csv").unwrap();
    let names: Vec<&str> = wide.lines().next().unwrap().split(',').collect();
    let mut text = String::from("trace,epoch_s,rtt_ms\n");
    for (trace, name) in names.iter().enumerate() {
        for (at, line) in wide.lines().skip(1).enumerate() {
            let cell = line.split(',').nth(trace).unwrap();
            text += &format!("{name},{},{cell}\n", at * 240);
        }
    }
    let file = write(dir.path(), "t.csv", text.as_bytes());
    let judged = |model: Option<Arc<Model>>| {
        let (_, [forecasts, ..]) =
            play(std::slice::from_ref(&file), &Plan { model, ..plan(1, 1, &[1, 2, 3]) });
        let forecasts = write(dir.path(), "f.csv", forecasts.as_bytes());
        let ask = Ask { forecasts: Some(forecasts), part: Part::Last, ..Ask::default() };
        score::run(std::slice::from_ref(&file), &ask).unwrap()
    };
    for (model, bound) in [(None, 0.875), (Some(Arc::new(Model::shipped())), 0.83)] {
        let figures = judged(model);
        for f in figures.iter().filter(|f| f.metric == "of_persistence") {
            println!("{f:?}");
            assert!(f.value.unwrap() <= bound, "{f:?}");
        }
        let worst = figures.iter().filter(|f| f.metric == "of_persistence_worst");
        worst.for_each(|f| assert!(f.value.unwrap() <= 1.3, "{f:?}"));
    }
}

#[test]
fn a_file_that_is_none_is_refused_with_file_and_place() {
    let dir = tempfile::tempdir().unwrap();
    let whole = matrix(1, 2, &[vec![0.0, 5.0, 6.0, 0.0], vec![0.0, 7.0, 8.0, 0.0]]);
    let nan = matrix(3, 2, &[vec![0.0, f32::NAN, 6.0, 0.0]]);
    let packed = gzipped(&whole);
    let head = "trace,epoch_s,rtt_ms,changepoint\n";
    let line = |text: &str| format!("{head}{text}\n").into_bytes();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"PNG".to_vec(), "neither matrices"),
        (Vec::new(), "neither matrices"),
        (whole[..whole.len() - 4].to_vec(), "44 bytes where 2 slices of 2 nodes take 48"),
        (whole[..10].to_vec(), "10 bytes where the head alone has 16"),
        (packed[..packed.len() - 9].to_vec(), "x.rttm"),
        (nan, "slice 3, from 0 to 1: NaN is no round trip"),
        (matrix(1, 2, &[vec![0.0, -1.0, 6.0, 0.0]]), "-1 is no round trip"),
        (matrix(1, 1, &[vec![0.0]]), "1 nodes"),
        (matrix(1, 2, &[]), "0 slices"),
        (matrix(u32::MAX, 2, &[vec![0.0; 4]]), "cannot be"),
        (line("a,10,x,0"), "line 2: \"x\" is no round trip"),
        (line("a,10,-4,0"), "no round trip"),
        (line("a,10,NaN,0"), "no round trip"),
        (line("a,ten,4,0"), "no time"),
        (line("a,10,4"), "line 2: 3 cells where 4"),
        (line("a,10,4,2"), "0 or 1"),
        (line(",10,4,0"), "no name"),
        (line("a,1000,4,0\na,900,4,0"), "line 3: trace a goes back by 100 s"),
        (head.as_bytes().to_vec(), "no samples at all"),
    ];
    for (bytes, says) in cases {
        let file = write(dir.path(), "x.rttm", &bytes);
        let error = Record::open(&[file]).unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
    let one = write(dir.path(), "one.rttm", &whole);
    let other = write(dir.path(), "other.rttm", &matrix(2, 2, &[vec![0.0, 5.0, 6.0, 0.0]]));
    let wide = write(dir.path(), "wide.rttm", &matrix(3, 3, &[vec![1.0; 9]]));
    let trace = write(dir.path(), "t.csv", &line("a,10,4,0"));
    for (files, says) in [
        (vec![one.clone(), other], "slice 2 stands in two files"),
        (vec![one.clone(), wide], "matrices of 2 and of 3 nodes"),
        (vec![one.clone(), trace], "do not make one record"),
        (vec![dir.path().join("none")], "none"),
    ] {
        let error = Record::open(&files).unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
    for (plan, says) in [
        (plan(9, 1, &[1]), "holds slices 1 to 2"),
        (plan(1, 0, &[1]), "--every 0"),
        (plan(1, 1, &[0]), "--horizons 0"),
        (plan(1, 1, &[]), "--horizons"),
    ] {
        let error = replay::run(std::slice::from_ref(&one), &plan, Sinks::default()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn pauses_and_samples_that_come_late_are_counted_and_played() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from("trace,epoch_s,rtt_ms\n");
    for at in 0..50_i64 {
        // A late sample at 20, a pause after 30, a loss at 40.
        let epoch = at * 240 - if at == 20 { 243 } else { 0 } + if at > 30 { 7200 } else { 0 };
        text += &format!("a,{epoch},{}\n", if at == 40 { "" } else { "40.0" });
    }
    let file = write(dir.path(), "t.csv", text.as_bytes());
    let (played, [forecasts, choices, _]) = play(&[file], &plan(1, 1, &[1]));
    // What follows the late one is two steps after it.
    assert_eq!((played.late, played.gaps, played.lost, played.readings), (1, 2, 1, 49));
    assert_eq!(forecasts.lines().count(), 51);
    assert!(forecasts.lines().skip(1).all(|l| l.ends_with(",1,40.000")));
    assert_eq!(choices, "slice,from,to,via\n");
    assert_eq!(played.remarks.len(), 1);
}

#[test]
fn what_is_judged_must_speak_of_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let slices: Vec<_> = (0..5).map(four).collect();
    let file = write(dir.path(), "m.rttm", &matrix(1, 4, &slices));
    for (text, says) in [
        ("slice,from,to,via\n9,0,1,-\n", "line 2: no such slice"),
        ("slice,from,to,via\n1,0,7,-\n", "line 2: no pair 0, 7"),
        ("slice,from,to,via\n1,0,1,x\n", "line 2: \"x\""),
        ("slice,from,to\n1,0,1\n", "line 1"),
    ] {
        let choices = write(dir.path(), "c.csv", text.as_bytes());
        let ask = Ask { choices: Some(choices), horizons: vec![1], ..Ask::default() };
        let error = score::run(std::slice::from_ref(&file), &ask).unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
    let step = Plan { step: Some(Duration::from_secs(60)), ..plan(1, 1, &[1]) };
    assert_eq!(play(std::slice::from_ref(&file), &step).0.step_s, 60.0);
}
