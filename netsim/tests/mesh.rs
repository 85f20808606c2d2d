//! Whole meshes of many nodes in virtual time, on PlanetLab's round trips.

use std::time::Duration;

use netsim::bench::mesh::Mesh;
use netsim::netns::stop::Stop;

#[test]
fn a_hundred_nodes_find_each_other_and_good_paths_for_few_bytes() {
    let mut mesh = Mesh::new(100, 10, 1, &Stop::never()).unwrap();
    let whole = mesh.play_until_whole().unwrap().expect("the mesh became whole");
    assert!(whole <= Duration::from_secs(20), "{whole:?}");
    mesh.play(Duration::from_secs(25)).unwrap();
    let spoken = mesh.listen(Duration::from_secs(15)).unwrap();
    assert!(spoken.probe_kbit_s <= 15.0, "{spoken:?}");
    assert!(spoken.link_state_kbit_s <= 60.0, "{spoken:?}");
    // By then each link was asked twenty times.
    mesh.play(Duration::from_secs(240)).unwrap();
    let regret = mesh.regret().expect("a path for every pair");
    assert!(regret <= 0.01, "{regret}");
    let known = mesh.bury(50).unwrap();
    assert_eq!(known.len(), 99);
    assert!(known.iter().all(|span| *span < Duration::from_secs(5)), "{known:?}");
}

#[test]
fn ten_nodes_restarted_at_once_are_a_full_mesh_with_traffic_within_ten_seconds() {
    for seed in 1..=3 {
        let mut mesh = Mesh::new(10, 10, seed, &Stop::never()).unwrap();
        mesh.play_until_whole().unwrap().expect("the mesh became whole");
        mesh.play(Duration::from_secs(20)).unwrap();
        let living = mesh.world().living();
        let at = mesh.world().now();
        living.iter().for_each(|site| mesh.world().kill(*site));
        living.iter().for_each(|site| mesh.world().start(*site).unwrap());
        let whole = mesh.play_until_whole().unwrap().expect("the mesh became whole again");
        assert!(whole <= Duration::from_secs(10), "seed {seed}: {whole:?}");
        mesh.play(Duration::from_secs(15)).unwrap();
        let at_ns = at.as_micros() * 1000;
        for ledger in mesh.world().ledgers() {
            let again = ledger.with(|ledger| ledger.works_again_ns(at_ns, 5));
            let after = again.map(|ns| (ns - at_ns) as f64 / 1e9);
            assert!(
                after.is_some_and(|s| s <= 10.0),
                "seed {seed}: traffic again after {after:?} s"
            );
        }
    }
}
