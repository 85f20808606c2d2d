//! Good files, bad files, and the exact words they are answered with.

use super::profile::Profile;
use super::*;
use crate::route::policy::{Delivery, Marking, Objective};
use crate::unit::Residual;

const LEAST: &str = r#"
[node]
name = "paris"
certificate = "pki/paris.crt"
key = "/keys/paris.key"
ca = ["pki/ca.crt"]
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/thalweg/thalweg.toml"))
}

fn problems(text: &str) -> String {
    let text = parse(text).expect_err("must be refused").to_string();
    text.replace("/etc/thalweg/", "")
}

#[test]
fn four_keys_make_a_node_and_paths_start_at_the_file() {
    let config = parse(LEAST).unwrap();
    assert_eq!(config.node.certificate, Path::new("/etc/thalweg/pki/paris.crt"));
    assert_eq!(config.node.key, Path::new("/keys/paris.key"));
    assert_eq!(config.underlay.listen.to_string(), "0.0.0.0:4600");
    assert_eq!(config.route.recompute, Duration::from_secs(300));
    assert_eq!(config.classes, class::defaults());
}

#[test]
fn listed_defaults_are_those_in_force() {
    let mut text = String::new();
    for table in keys::TABLES.iter().filter(|t| !t.repeated) {
        text += &table.heading();
        text += "\n";
        if table.name == "node" {
            text += LEAST.trim_start().strip_prefix("[node]\n").unwrap();
        }
        for key in table.keys.iter().filter(|k| !k.default.is_empty()) {
            text += &format!("{} = {}\n", key.name, key.default);
        }
    }
    assert_eq!(parse(&text).unwrap(), parse(LEAST).unwrap());
    let classes = keys::find("class").unwrap().keys;
    let mut text = format!("{LEAST}\n[[class]]\nname = \"a\"\n");
    let short = parse(&text).unwrap();
    for key in classes.iter().filter(|k| !k.default.is_empty()) {
        text += &format!("{} = {}\n", key.name, key.default);
    }
    assert_eq!(parse(&text).unwrap(), short);
}

#[test]
fn an_empty_file_is_told_what_it_lacks() {
    assert_eq!(
        problems(""),
        "thalweg.toml: [node] needs `name`; write for example name = \"paris\"\n\
         thalweg.toml: [node] needs `certificate`; write for example \
         certificate = \"pki/paris.crt\"\n\
         thalweg.toml: [node] needs `key`; write for example key = \"pki/paris.key\"\n\
         thalweg.toml: [node] needs `ca`; write for example ca = [\"pki/ca.crt\"]"
    );
}

#[test]
fn unknown_names_get_the_nearest_known_one() {
    let text = format!("{LEAST}\n[overly]\nmtu = 1\n\n[route]\nrecompte = \"5m\"\nzzz = 1\n");
    assert_eq!(
        problems(&text),
        "thalweg.toml:8: unknown table or key `overly`; did you mean `[overlay]`?\n\
         thalweg.toml:12: unknown key `recompte` in [route]; did you mean `recompute`?\n\
         thalweg.toml:13: unknown key `zzz` in [route]; known are recompute, margin, hold_down, observe"
    );
    let loose = format!("mtu = 1300\n{LEAST}");
    assert_eq!(
        problems(&loose),
        "thalweg.toml:1: unknown table or key `mtu`; `mtu` belongs into [overlay]"
    );
}

#[test]
fn every_bad_value_is_told_at_once_with_its_line_and_fix() {
    let text = format!(
        "{LEAST}\n\
         [underlay]\n\
         listen = \"0.0.0.0\"\n\
         [overlay]\n\
         interface = \"a/b\"\n\
         mtu = 9000\n\
         [[peer]]\n\
         name = \"paris\"\n\
         endpoint = \"paris.example\"\n\
         [[peer]]\n\
         name = \"Lyon\"\n\
         [route]\n\
         recompute = 300\n\
         margin = \"60%\"\n\
         [probe]\n\
         idle = \"50s\"\n\
         [[class]]\n\
         prefixes = [\"10.1.0.0/16\", \"10.2.3.4/24\"]\n\
         [uplink]\n\
         price_per_gb = -1\n\
         [log]\n\
         level = \"verbose\"\n"
    );
    assert_eq!(
        problems(&text),
        "thalweg.toml:9: [underlay] listen \"0.0.0.0\" is no address with a port; write an IP \
         address and a port, like \"192.0.2.7:4600\" or \"[2001:db8::7]:4600\"\n\
         thalweg.toml:11: [overlay] interface \"a/b\" is no interface name; use 1 to 15 letters, \
         digits, hyphens, dots or underscores\n\
         thalweg.toml:12: [overlay] mtu 9000 does not fit; write 576 to 1386: what an underlay of \
         1500 bytes leaves after headers\n\
         thalweg.toml:15: [[peer]] endpoint \"paris.example\" is no host with a port; write for \
         example \"203.0.113.5:4600\" or \"paris.example.net:4600\"\n\
         thalweg.toml:16: [[peer]] needs `endpoint`; write for example endpoint = \
         \"paris.example.net:4600\"\n\
         thalweg.toml:17: [[peer]] name \"Lyon\" is no node name; use 1 to 63 lower-case letters, \
         digits and hyphens, not beginning or ending with a hyphen\n\
         thalweg.toml:19: [route] recompute is the number 300 without a unit; write a time with its \
         unit, like \"250ms\", \"30s\" or \"5m\"\n\
         thalweg.toml:20: [route] margin is 60.00 %; write at most \"50%\"; above 5 % most of the \
         gain is thrown away\n\
         thalweg.toml:22: [probe] stale_idle (1m) is less than twice idle (50s); raise `stale_idle` \
         or lower `idle`: one lost probe must not count\n\
         thalweg.toml:23: [[class]] needs `name`; write for example name = \"video\"\n\
         thalweg.toml:24: [[class]] prefixes (item 2) \"10.2.3.4/24\" has bits set beyond its length; \
         write \"10.2.3.0/24\"\n\
         thalweg.toml:26: [uplink] price_per_gb is no price; write currency units per gigabyte from \
         0 to 4000, like 0.09\n\
         thalweg.toml:28: [log] level \"verbose\" is not known here; write one of \"error\", \
         \"warn\", \"info\", \"debug\", \"trace\""
    );
}

#[test]
fn broken_syntax_names_its_line_and_hides_what_follows_from_it() {
    let text = format!("{LEAST}\n[route\nmargin = \"99%\"\n");
    let told = problems(&text);
    assert!(told.starts_with("thalweg.toml:8: not TOML: "), "{told}");
    assert!(!told.contains("margin"), "{told}");
}

#[test]
fn classes_keep_their_order_and_something_takes_the_rest() {
    let text = format!(
        "{LEAST}\n\
         [[class]]\n\
         name = \"voice\"\n\
         dscp = [\"ef\", 44]\n\
         max_latency = \"80ms\"\n\
         max_loss = \"1%\"\n\
         max_price = 0.2\n\
         repair_budget = \"40ms\"\n\
         outer_dscp = \"AF41\"\n\
         [[class]]\n\
         name = \"copies\"\n\
         outer_dscp = \"copy\"\n\
         prefixes = [\"10.9.0.0/16\"]\n\
         objective = \"cost\"\n"
    );
    let classes = parse(&text).unwrap().classes;
    let names: Vec<_> = classes.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["voice", "copies", "default"]);
    let voice = &classes[0];
    assert_eq!(voice.matches.dscp, [46, 44]);
    assert_eq!(voice.policy.limits.max_loss, Some(Ratio::from_ppm(10_000)));
    assert_eq!(voice.policy.limits.max_price, Some(Price(200_000)));
    assert_eq!(voice.delivery.budget, Duration::from_millis(40));
    assert_eq!(classes[1].policy.objective, Objective::Cost);
    let markings: Vec<_> = classes.iter().map(|c| c.marking).collect();
    assert_eq!(markings, [Marking::As(34), Marking::Copy, Marking::Copy]);
    let wrong = text.replace("AF41", "AF99");
    let told = parse(&wrong).unwrap_err().to_string();
    assert!(told.contains("outer_dscp") && told.contains("write \"copy\", a name"), "{told}");
}

#[test]
fn classes_that_cannot_work_are_refused() {
    let text = format!(
        "{LEAST}\n\
         [[class]]\n\
         name = \"all\"\n\
         reorder = \"1s\"\n\
         [[class]]\n\
         name = \"late\"\n\
         dscp = [64]\n\
         [[class]]\n\
         name = \"later\"\n\
         dscp = [1]\n\
         repair_budget = \"6s\"\n"
    );
    let told = problems(&text);
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 5, "{told}");
    assert!(lines[0].starts_with("thalweg.toml:10: [[class]] reorder (1s) is longer than"));
    assert!(lines[1].starts_with("thalweg.toml:12: [[class]] `late` can never match: `all` takes"));
    assert!(lines[2].starts_with("thalweg.toml:13: [[class]] dscp (item 1) is no DSCP; "));
    assert!(lines[3].starts_with("thalweg.toml:15: [[class]] `later` can never match"));
    assert!(lines[4].starts_with("thalweg.toml:17: [[class]] repair_budget is 6s; "));
}

#[test]
fn a_profile_is_a_whole_class_and_every_key_beside_it_goes_before_it() {
    let text = format!(
        "{LEAST}\n\
         [[class]]\n\
         profile = \"gaming\"\n\
         [[class]]\n\
         name = \"arena\"\n\
         profile = \"gaming\"\n\
         prefixes = [\"10.20.0.0/16\"]\n\
         objective = \"reliability\"\n\
         repair_budget = \"30ms\"\n\
         residual = \"0.1 %\"\n\
         repair_share = \"20%\"\n\
         repair_rate = \"200 kbit/s\"\n\
         [[class]]\n\
         profile = \"desktop\"\n\
         repair_budget = \"50ms\"\n\
         [[class]]\n\
         profile = \"none\"\n\
         dscp = []\n"
    );
    let classes = parse(&text).unwrap().classes;
    let names: Vec<_> = classes.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["gaming", "arena", "desktop", "none"], "the last takes all");
    assert_eq!(classes[0].matches.dscp, Profile::Gaming.dscp());
    assert_eq!(classes[0].delivery, Profile::Gaming.delivery());
    assert!(classes[1].matches.dscp.is_empty(), "its own condition stands alone");
    assert_eq!(classes[1].policy.objective, Objective::Reliability);
    let own = Delivery {
        budget: Duration::from_millis(30),
        reorder: Duration::ZERO,
        residual: Residual(48),
        repair_share: Some(Ratio::from_ppm(200_000)),
        repair_bps: Some(200_000),
    };
    assert_eq!(classes[1].delivery, own);
    assert_eq!(classes[2].delivery.reorder, Duration::from_millis(50), "no longer than its budget");
    assert_eq!(classes[3].delivery, Delivery::NONE);
}

#[test]
fn every_profile_can_be_named_and_gives_what_a_packet_can_say() {
    for profile in Profile::ALL {
        let name = profile.name();
        let text = format!("{LEAST}\n[[class]]\nprofile = \"{name}\"\ndscp = [\"CS7\"]\n");
        let class = parse(&text).unwrap().classes.swap_remove(0);
        assert_eq!((class.name.as_str(), class.delivery), (name, profile.delivery()));
        assert!(class.delivery.reorder <= class.delivery.budget);
        assert!(class.delivery.budget <= class::LONGEST_BUDGET);
        assert_eq!(profile == Profile::None, class.delivery.budget.is_zero());
    }
    let all: Vec<u8> = Profile::ALL.iter().flat_map(|p| p.dscp()).copied().collect();
    let mut single = all.clone();
    single.sort_unstable();
    single.dedup();
    assert_eq!(single.len(), all.len(), "a code point of two profiles would go to the first");
}

#[test]
fn an_unknown_profile_is_told_once_and_hides_what_follows_from_it() {
    let text = format!(
        "{LEAST}\n[[class]]\nprofile = \"games\"\n[[class]]\nname = \"b\"\ndscp = [\"EF\"]\n"
    );
    let told = problems(&text);
    assert!(told.starts_with("thalweg.toml:9: [[class]] profile \"games\" is not known"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn wrong_bounds_of_repair_are_told_with_their_line_and_fix() {
    for (line, told) in [
        (
            "profile = \"games\"",
            "profile \"games\" is not known here; write one of \"live\", \"gam",
        ),
        (
            "profile = \"vr\"",
            "of profile \"vr\" does not say which packets it takes; no code points",
        ),
        ("profile = 1", "profile is the number 1; write text in quotes"),
        ("residual = \"0%\"", "residual is 0 %; write a percentage from \"0.0000001%\" to \"10%\""),
        ("residual = \"11%\"", "residual is 11 %; write a percentage from"),
        ("residual = 0.01", "residual is the number 0.01 without a unit; write a percentage"),
        ("residual = \"NaN%\"", "residual \"NaN%\" is no percentage"),
        ("repair_share = \"0%\"", "repair_share is zero; write repair_budget = \"0ms\" where"),
        ("repair_share = \"101%\"", "repair_share \"101%\" is no percentage"),
        ("repair_rate = \"0 kbit/s\"", "repair_rate is zero; write repair_budget"),
        ("repair_rate = \"fast\"", "repair_rate \"fast\" is no rate; write a rate with its unit"),
    ] {
        let text = format!("{LEAST}\n[[class]]\nname = \"a\"\n{line}\n");
        let problem = problems(&text);
        assert!(problem.starts_with("thalweg.toml:10: [[class]] "), "{line}: {problem}");
        assert!(problem.contains(told) && problem.lines().count() == 1, "{line}: {problem}");
    }
}

#[test]
fn the_last_default_class_takes_everything_and_names_differ() {
    let classes = class::defaults();
    assert_eq!(classes.last().unwrap().matches, Default::default());
    let mut dscp: Vec<u8> = classes.iter().flat_map(|c| c.matches.dscp.clone()).collect();
    dscp.sort_unstable();
    let all = dscp.len();
    dscp.dedup();
    assert_eq!(dscp.len(), all, "a code point in two classes would silently go to the first");
}

#[test]
fn an_uplink_is_capped_at_a_rate_with_its_unit() {
    let capped = |rate: &str| parse(&format!("{LEAST}\n[uplink]\nmax_rate = {rate}\n"));
    let bps = |rate: &str| capped(rate).unwrap().uplink.max_rate_bps;
    assert_eq!(bps("\"50 Mbit/s\""), Some(50_000_000));
    assert_eq!(bps("\"512kbit/s\""), Some(512_000));
    assert_eq!(bps("\"1.5 Gbit/s\""), Some(1_500_000_000));
    assert_eq!(bps("\"off\""), None);
    assert_eq!(parse(LEAST).unwrap().uplink.max_rate_bps, None);
    for (wrong, told) in [
        ("50", "is the number 50 without a unit; write a rate with its unit, like \"200 kbit/s\""),
        ("\"50\"", "\"50\" is no rate; write a rate with its unit"),
        ("\"50 MB/s\"", "\"50 MB/s\" is no rate"),
        ("\"Mbit/s\"", "is no rate"),
        ("\"-1 Mbit/s\"", "is no rate"),
        ("\"inf Gbit/s\"", "is no rate"),
        ("\"1e300 Gbit/s\"", "is no rate"),
        ("\"99999 Gbit/s\"", "is too much; write at most \"1000 Gbit/s\""),
        ("\"0 kbit/s\"", "leaves no room for packets; write \"100 kbit/s\" or more, or \"off\""),
    ] {
        let problem = capped(wrong).unwrap_err().to_string();
        let begins = "/etc/thalweg/thalweg.toml:9: [uplink] max_rate ";
        assert!(problem.starts_with(begins) && problem.contains(told), "{wrong}: {problem}");
    }
}

#[test]
fn metrics_can_be_off_and_open_ones_are_remarked() {
    let off = parse(&format!("{LEAST}\n[metrics]\nlisten = \"off\"\n")).unwrap();
    assert_eq!(off.metrics.listen, None);
    let open = parse(&format!("{LEAST}\n[metrics]\nlisten = \"0.0.0.0:9460\"\n")).unwrap();
    assert!(open.remarks().iter().any(|r| r.contains("whoever reaches it")));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_value_makes_the_reader_panic(
        table in 0..keys::TABLES.len(),
        key in 0_usize..32,
        value in "(\"\\PC{0,20}\"|[0-9]{1,25}|-?[0-9]{1,3}\\.[0-9]{1,3}|true|inf|nan|\\[\\]|\\[1, \"a\"\\]|\\{a = 1\\})",
    ) {
        let table = keys::TABLES[table];
        let key = table.keys[key % table.keys.len()];
        let _ = parse(&format!("{}\n{} = {value}\n", table.heading(), key.name));
    }
}

#[test]
fn classes_by_port_and_protocol_are_read_and_wrong_ones_named() {
    let text = |lines: &str| format!("{LEAST}\n[[class]]\nname = \"a\"\n{lines}\n");
    let config =
        parse(&text("protocols = [\"udp\", 132]\nports = [443, \"27000-27100\"]")).unwrap();
    let matches = &config.classes[0].matches;
    assert_eq!(matches.protocols, [17, 132]);
    assert_eq!(matches.ports, [(443, 443), (27_000, 27_100)]);
    assert_eq!(config.classes[1].name, "default", "it does not take everything");
    let told = problems(&text("protocols = [\"quic\"]\nports = [0, \"9-8\"]"));
    assert!(
        told.contains("[[class]] protocols (item 1) \"quic\" is not known here; write one of"),
        "{told}"
    );
    assert!(told.contains("[[class]] ports (item 1) is no port; write a port like 443"), "{told}");
    let told = problems(&text("ports = [\"9-8\"]"));
    assert!(told.contains("(item 1) \"9-8\" is no range of ports"), "{told}");
    let told = problems(&text("protocols = [\"esp\"]\nports = [5]"));
    assert!(told.contains("none of its `protocols` has any"), "{told}");
    // A profile's code points stand back where it is said otherwise what it takes.
    let profile = parse(&format!("{LEAST}\n[[class]]\nprofile = \"gaming\"\nports = [3074]\n"));
    assert_eq!(profile.unwrap().classes[0].matches.dscp, [0_u8; 0]);
}

#[test]
fn tariffs_are_read_and_wrong_hours_named() {
    let text = |lines: &str| format!("{LEAST}\n{lines}\n");
    let tariff = "[uplink]\nprice_per_gb = 0.09\nutc_offset = \"-05:30\"\nmonthly_budget = 50\n\
                  [[tariff]]\nhours = \"22:00-06:00\"\ndays = [\"fri\", \"sat\"]\nprice_per_gb = 0.01";
    let uplink = parse(&text(tariff)).unwrap().uplink;
    assert_eq!((uplink.utc_offset_min, uplink.budget), (-330, Some(50_000_000)));
    let tariff = uplink.tariffs[0];
    assert_eq!((tariff.from_min, tariff.to_min, tariff.days), (1320, 360, 0x30));
    for hours in ["22-6", "25:00-26:00", "6:00-7:00", "06:00-06:00", "24:00-06:00", "06:60-07:00"] {
        let told = problems(&text(&format!("[[tariff]]\nhours = \"{hours}\"\nprice_per_gb = 1")));
        assert!(
            told.contains(&format!("[[tariff]] hours \"{hours}\" are no hours; write")),
            "{told}"
        );
    }
    let told = problems(&text("[[tariff]]\nhours = \"00:00-24:00\"\ndays = [\"mo\"]"));
    assert!(
        told.contains("\"mo\" is not known here") && told.contains("needs `price_per_gb`"),
        "{told}"
    );
    let told = problems(&text("[uplink]\nutc_offset = \"1\"\nmonthly_budget = 0"));
    assert!(told.contains("is no offset") && told.contains("is no budget"), "{told}");
}

#[test]
fn what_a_class_avoids_prefers_and_falls_back_on_is_read_and_wrong_ones_named() {
    let text = |lines: &str| format!("{LEAST}\n[[class]]\nname = \"a\"\n{lines}\n");
    let good = "avoid = [\"rome\", \"bonn\", \"rome\"]\nprefer = [\"oslo\"]\nfallback = \"direct\"";
    let config = parse(&text(good)).unwrap();
    let policy = &config.classes[0].policy;
    assert_eq!(
        (&policy.avoid[..], &policy.prefer[..]),
        (&["bonn".into(), "rome".into()][..], &["oslo".into()][..])
    );
    assert_eq!(policy.fallback, Fallback::Direct);
    assert!(config.remarks().iter().all(|r| !r.contains("fallback")), "avoid is a limit");
    assert_eq!(parse(LEAST).unwrap().classes[0].policy.fallback, Fallback::Hold);
    for (lines, line, told) in [
        (
            "fallback = \"none\"",
            10,
            "fallback \"none\" is not known here; write one of \"hold\", \"direct\", \"drop\"",
        ),
        ("avoid = [\"Rome\"]", 10, "avoid (item 1) \"Rome\" is no node name; use 1 to 63"),
        ("avoid = \"rome\"", 10, "avoid "),
        (
            "avoid = [\"rome\"]\nprefer = [\"rome\"]",
            11,
            "both avoids and prefers `rome`; take it out",
        ),
        ("avoids = [\"rome\"]", 10, "did you mean `avoid`"),
    ] {
        let problem = problems(&text(lines));
        assert!(problem.starts_with(&format!("thalweg.toml:{line}: ")), "{lines}: {problem}");
        assert!(problem.contains(told) && problem.lines().count() == 1, "{lines}: {problem}");
    }
    let idle = parse(&text("fallback = \"drop\"")).unwrap().remarks();
    assert!(
        idle.iter().any(|r| r.contains("`a` fallback = \"drop\": it has no limits")),
        "{idle:?}"
    );
}
