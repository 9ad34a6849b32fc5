//! Tests of the simulator: what a seed fixes, what it makes likely, and its files.
#![forbid(unsafe_code)]

use super::*;

fn small() -> Bank {
    Bank { seed: 1, customers: 300, days: 120 }
}

#[test]
fn a_seed_fixes_the_sessions_and_more_customers_leave_them() {
    let all: Vec<Visit> = small().visits().collect();
    assert!(all.windows(2).all(|two| two[0].login <= two[1].login));
    assert!(all == small().visits().collect::<Vec<_>>());
    let more: Vec<Visit> = Bank { customers: 400, ..small() }.visits().filter(|visit| visit.customer < 300).collect();
    assert!(all == more);
    assert!(all != Bank { seed: 2, ..small() }.visits().collect::<Vec<_>>());
    // Pinned, so that a change of the simulator is noticed: files and figures depend on it.
    let sum: u64 = all.iter().map(|visit| u64::from(visit.logout)).sum();
    let events: usize = all.iter().map(|visit| visit.events.len()).sum();
    let (called, taken) = (all.iter().filter(|v| v.called.is_some()).count(), all.iter().filter(|v| v.takeover).count());
    assert_eq!((all.len(), sum % (1 << 32), events, called, taken), (11_875, 1_971_597_748, 80_625, 1_093, 146));
}

#[test]
fn what_the_labels_hang_on_is_there() {
    let all: Vec<Visit> = Bank { customers: 1_000, ..small() }.visits().collect();
    let share = |of: &dyn Fn(&&Visit) -> bool, among: &dyn Fn(&&Visit) -> bool| {
        let among: Vec<&Visit> = all.iter().filter(among).collect();
        among.iter().filter(|visit| of(visit)).count() as f64 / among.len() as f64
    };
    let (called, taken) = (share(&|v| v.called.is_some(), &|_| true), share(&|v| v.takeover, &|_| true));
    println!("{} sessions, {called:.3} called, {taken:.4} taken over", all.len());
    assert!((0.03..0.15).contains(&called) && (0.008..0.016).contains(&taken));
    let has = |v: &Visit, name: &str| v.events.iter().any(|event| event == name);
    assert!(share(&|v| v.called.is_some(), &|v| has(v, "error")) > 2.0 * called);
    assert!(share(&|v| v.takeover, &|v| has(v, "add_payee")) > 5.0 * taken);
    // Bills are paid when they are due.
    let due = |v: &Visit| v.context[2] < 0.14;
    assert!(share(&|v| v.intent == 1, &|v| due(v)) > 1.8 * share(&|v| v.intent == 1, &|v| !due(v)));
    for visit in &all {
        assert!(visit.called.is_none_or(|at| at >= visit.logout && at - visit.logout < CALL_WINDOW));
        assert!(visit.reported.is_none_or(|at| visit.takeover && at - visit.logout <= REPORT_WINDOW));
    }
}

#[test]
fn files_read_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<Visit> = Bank { customers: 30, ..small() }.visits().collect();
    for layout in [FileLayout::JsonLines, FileLayout::Csv] {
        let mut bytes = Vec::new();
        let count = Bank { customers: 30, ..small() }.visits().write(&mut bytes, layout, &mut |_| ()).unwrap();
        let path = dir.path().join("bank");
        std::fs::write(&path, &bytes).unwrap();
        let mut file = BankFile::open(&path).unwrap();
        let mut read = Vec::new();
        while let Some(visit) = file.next_visit().unwrap() {
            read.push(visit);
        }
        assert_eq!((read.len() as u64, read == all), (count, true), "{layout:?}");
        // Whatever a line is cut to, it is an error that names it, or a session.
        let text = String::from_utf8(bytes).unwrap();
        let second = text.lines().nth(1).unwrap();
        for cut in 0..second.len() {
            std::fs::write(&path, format!("{}\n{}", text.lines().next().unwrap(), &second[..cut])).unwrap();
            let mut file = BankFile::open(&path).unwrap();
            let (first, second) = (file.next_visit(), file.next_visit());
            let error = first.is_err() || second.is_err();
            assert!(error || cut == 0 || layout == FileLayout::Csv, "{cut}");
        }
    }
    std::fs::write(dir.path().join("other"), "a,b,c\n").unwrap();
    assert!(matches!(BankFile::open(&dir.path().join("other")), Err(Error::Input { line: 1, .. })));
}

#[test]
fn senseless_parameters_are_refused() {
    for bank in [Bank { customers: 0, ..small() }, Bank { days: 0, ..small() }, Bank { days: 1 << 40, ..small() }] {
        assert!(bank.validate().is_err());
    }
}
