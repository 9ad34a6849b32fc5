//! Tests of the readers: small files of each format, broken ones, and the real ones where they are at hand.
#![forbid(unsafe_code)]

use super::*;

fn write(dir: &tempfile::TempDir, name: &str, text: &str) {
    std::fs::write(dir.path().join(name), text).unwrap();
}

fn at(dir: &tempfile::TempDir, name: &str) -> String {
    format!("{name}:{}", dir.path().display())
}

fn classes(session: &Session) -> Vec<Option<u32>> {
    session.labels.iter().map(|label| label.map(|label| label.class)).collect()
}

#[test]
fn entree_lines_become_sessions_in_time_order() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "sessions_anon.tsv", "1996-09-07T12:17:05\t1\t0 560L 110N 110\n1996-09-07T11:02:23\t0\t606Q 606Q 44\n");
    let data = open(&at(&dir, "entree")).unwrap();
    let [first, second] = &data.sessions[..] else { panic!("{data:?}") };
    assert_eq!((first.start, classes(first), classes(second)), (842_094_143, vec![Some(0), Some(1)], vec![Some(1), Some(1)]));
    assert_eq!(first.events, [event(1, "like"), event(1, "Q"), event(1, "")]);
    assert_eq!(second.events[0], event(1, "in"));
    write(&dir, "sessions_anon.tsv", "1996-09-07T12:17:05\t1\t0 560L\nnonsense\n");
    assert!(matches!(open(&at(&dir, "entree")), Err(Error::Input { line: 2, .. })));
}

#[test]
fn the_other_formats_are_read_and_broken_lines_named() {
    let dir = tempfile::tempdir().unwrap();
    let head = "id_visitor|id_session|dim_session_number|dim_user_agent|dim_device_app_combo|ds|ts_min|ts_max|did_search|sent_message|sent_booking_request";
    let line = "v|s|83|A|iPhone - iOS|2015-02-16|2015-02-16 21:50:41|2015-02-16 22:13:42|1|1|0";
    write(&dir, "airbnb-session-data.txt", &format!("{head}\n{line}\n"));
    let data = open(&at(&dir, "airbnb")).unwrap();
    assert_eq!((data.sessions[0].events.len(), classes(&data.sessions[0])), (4, vec![Some(1)]));
    assert_eq!(data.sessions[0].context.len(), data.context);
    write(&dir, "airbnb-session-data.txt", &format!("{head}\n{}\n", line.replace("|1|1|0", "|1|x|0")));
    assert!(matches!(open(&at(&dir, "airbnb")), Err(Error::Input { line: 2, .. })));
    write(&dir, "train.tsv", "SessionId\tItemId\tTime\n3\t7\t100.5\n3\t8\t101\n4\t7\t150\n");
    write(&dir, "test.tsv", "SessionId\tItemId\tTime\n3\t7\t200.5\n");
    let data = open(&at(&dir, "yoochoose")).unwrap();
    assert_eq!((data.sessions.len(), data.split, data.sessions[0].events.len()), (3, Some(200), 2));
    assert_ne!(data.sessions[0].customer, data.sessions[2].customer);
    write(&dir, "test.tsv", "SessionId\tItemId\tTime\n3\t7\t120\n");
    assert!(matches!(open(&at(&dir, "yoochoose")), Err(Error::InvalidOption { what, .. }) if what.contains("120")));
    for wrong in ["entree", "nothing:x", ""] {
        assert!(matches!(open(wrong), Err(Error::InvalidOption { .. })), "{wrong}");
    }
}

#[test]
fn probes_are_blocks_of_others() {
    let dir = tempfile::tempdir().unwrap();
    for user in 0..3 {
        write(&dir, &format!("User{user}"), &format!("c{user}\n").repeat(60 * BLOCK));
    }
    write(&dir, "labels_users0-4.csv", &format!(",0-100\nUser0{}\n", ",0".repeat(59) + ",1"));
    const BLOCK: usize = 100;
    let data = open(&at(&dir, "unix")).unwrap();
    let (early, late): (Vec<&Session>, Vec<&Session>) = data.sessions.iter().partition(|s| s.start < data.split.unwrap());
    let probes: Vec<&Session> = early.iter().copied().filter(|session| session.probe).collect();
    assert_eq!((probes.len(), early.len() - probes.len(), late.len()), (3 * 40, 3 * 50, 10));
    assert!(probes.iter().all(|probe| classes(probe) == [Some(1)]) && late.iter().all(|session| session.probe));
    let own = |probe: &Session| early.iter().find(|s| s.customer == probe.customer && !s.probe).unwrap().events[0];
    assert!(probes.iter().all(|probe| probe.events[0] != own(probe)));
    assert_eq!(late.iter().map(|session| classes(session)[0].unwrap()).sum::<u32>(), 1);
    write(&dir, "labels_users0-4.csv", ",0-100\nUser0,0,2\n");
    assert!(matches!(open(&at(&dir, "unix")), Err(Error::Input { line: 2, .. })));
}

#[test]
fn the_public_files_are_taken_as_they_come() {
    let root = std::path::Path::new("../shared/data");
    for (named, sessions, customers) in [
        ("entree:entree", 50_672, 20_093),
        ("airbnb:airbnb", 7_756, 630),
        ("unix:unix-masquerade", 5 * 150 + 35 * 50 + 40 * 40, 40),
        ("yoochoose:yoochoose-100k", 0, 0),
    ] {
        let (name, path) = named.split_once(':').unwrap();
        if !root.join(path).is_dir() {
            println!("SKIPPED: {} is not there, so nothing was read from it", root.join(path).display());
            continue;
        }
        let data = open(&format!("{name}:{}", root.join(path).display())).unwrap();
        let found = data.sessions.iter().map(|s| s.customer).collect::<std::collections::HashSet<_>>().len();
        println!("{named}: {} sessions, {found} customers", data.sessions.len());
        assert!(sessions == 0 || (data.sessions.len(), found) == (sessions, customers), "{named}");
    }
}
