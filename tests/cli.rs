//! The command line as its user meets it: what it reads, prints and refuses, and with which exit code.
#![cfg(feature = "cli")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod command;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use command::Place;
use embedrock::{Store, StoreOptions, TableSchema, Update};

const COMMANDS: &str = "train deepfm,train dce,train,inspect,verify,checkpoint,restore,export,import,drift,follow,join,experiment,report,plan,generate,generate bank,bench";
/// Small batches, a commit after each few, so that a short stream has several.
const TRAIN: &str = "train deepfm --batch-size 64 --factors 4 --memory-budget 24MiB --commit-every 4";

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<&str> {
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What goes on from the line before is further in.
    let named = commands.filter(|line| !line.starts_with("   "));
    named.map(|line| line.split_whitespace().next().unwrap()).filter(|name| *name != "help").collect()
}

#[test]
fn help_lists_what_works_and_the_readme_says_the_same() {
    let place = Place::new();
    let mut listed_all: Vec<String> = Vec::new();
    for name in listed(&place.ok("--help")) {
        let below = place.ok(&format!("{name} --help"));
        assert!(below.contains("Usage: embedrock"), "{below}");
        // Some with parts do something by themselves too.
        let alone = !below.contains(&format!("Usage: embedrock {name} <COMMAND>"));
        listed_all.extend(alone.then(|| name.to_owned()));
        listed_all.extend(listed(&below).iter().map(|part| format!("{name} {part}")));
    }
    let expected: Vec<&str> = COMMANDS.split(',').filter(|name| *name != "train").collect();
    assert_eq!(listed_all, expected);
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let line = readme.lines().find_map(|line| line.strip_prefix("`embedrock ")?.split_once('`')).unwrap().0;
    assert_eq!(line.split(" | ").collect::<Vec<_>>(), expected, "the list of commands in README.md");
    let helps: String = COMMANDS.split(',').map(|name| place.ok(&format!("{name} --help"))).collect::<String>() + "--help ";
    let ours = readme.lines().filter(|line| !line.contains("cargo ")).collect::<Vec<_>>().join("\n");
    let words = ours.split(|c: char| c.is_whitespace() || "`,;.|()".contains(c));
    // Those of the program itself: the other lines are for cargo.
    for option in words.filter(|word| word.starts_with("--") && word.ends_with(char::is_alphabetic)) {
        assert!(helps.contains(&format!("{option} ")) || helps.contains(&format!("{option}\n")), "README.md names {option}");
    }
}

#[test]
fn a_senseless_command_line_is_exit_code_2_and_changes_nothing() {
    let place = Place::new();
    assert_eq!(place.run("").code, Some(2));
    let all = [
        ("fly", "unrecognized subcommand"),
        ("inspect", "required"),
        ("inspect x --memory-budget 1PiB", "'PiB' is no unit: use KiB, MiB or GiB"),
        ("inspect x --memory-budget MiB", "is no size: write e.g. 64MiB"),
        ("inspect x --cold-memory MiB", "is no size: write e.g. 64MiB"),
        ("restore x --to y --at 7", "write TIMELINE.SEQUENCE"),
        ("plan --rows 1 --dim 0", "1..=65536"),
        ("follow x --replica y --interval 10", "'10' is no time: write e.g. 10s"),
        ("follow --replica y", "<STORE>"),
        ("follow x --replica y --codec t/1=int4", "'int4' is no quantisation"),
        ("follow x --replica y --interval 0s", "'0s' is out of range"),
        ("plan --rows 1 --dim 8 --optimizer x", "is no optimizer: choose sgd"),
        ("train deepfm --store s --data x --samples nine", "invalid digit"),
        ("generate --to f --users 0", "users, items and rate must be at least 1"),
    ];
    for (line, said) in all {
        place.fails(line, 2, &[said]);
    }
    place.fails("train deepfm --store s --samples 10 --batch-size 0", 2, &["batch-size", "1 to 1048576"]);
    place.fails("train deepfm --store s --samples 10 --memory-budget 1KiB", 2, &["memory budget", "8454144 are needed"]);
    assert!(!place.path("f").exists());
}

#[test]
fn ratings_and_clicks_are_read_plain_and_compressed() {
    let place = Place::new();
    for (layout, name) in [("movielens", "ratings.csv"), ("criteo", "train.tsv")] {
        place.ok(&format!("generate --to {name} --layout {layout} --samples 1500 --users 200 --items 50"));
        let text = std::fs::read(place.path(name)).unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&text).unwrap();
        std::fs::write(place.path(&format!("{name}.gz")), gz.finish().unwrap()).unwrap();
        std::fs::write(place.path(&format!("{name}.zst")), zstd::encode_all(text.as_slice(), 1).unwrap()).unwrap();
        let runs = ["", ".gz", ".zst"].map(|ending| {
            let report = place.json(&format!("{TRAIN} --store {name}{ending}-store --data {name}{ending}"));
            assert_eq!((report["samples"].as_u64(), report["batches"].as_u64()), (Some(1500), Some(24)), "{report}");
            assert_eq!(report["data"]["synthetic"], false);
            let auc = report["auc"].as_f64().unwrap();
            assert!((0.4..1.0).contains(&auc) && !report["curve"].as_array().unwrap().is_empty(), "{report}");
            (place.digest(&format!("{name}{ending}-store")), auc.to_bits(), report["rows"]["total"].as_u64())
        });
        assert!(runs.iter().all(|run| *run == runs[0] && run.2 > Some(100)), "{runs:?}");
    }
    std::fs::create_dir(place.path("two")).unwrap();
    ["a", "b"].iter().for_each(|name| std::fs::write(place.path(&format!("two/{name}")), "1::2::3::4\n").map(drop).unwrap());
    place.fails(&format!("{TRAIN} --store s --data two"), 2, &["holds several: two/a and two/b", "name one"]);
}

#[test]
fn a_malformed_line_is_named_and_costs_nothing_that_was_committed() {
    let place = Place::new();
    std::fs::write(place.path("ratings.csv"), "userId,movieId,rating,timestamp\n1,2,3.5,9\n1,2,many,9\n").unwrap();
    place.fails(&format!("{TRAIN} --store r --data ratings.csv"), 1, &["ratings.csv:3:", "rating 'many' is not a number"]);
    assert!(!place.path("r").exists(), "a store was made for a file that cannot be read");

    place.ok("generate --to good.tsv --layout criteo --samples 1000");
    let good = std::fs::read_to_string(place.path("good.tsv")).unwrap();
    let bad: Vec<String> = good.lines().enumerate().map(|(at, line)| if at == 900 { "2".into() } else { line.into() }).collect();
    std::fs::write(place.path("bad.tsv"), bad.join("\n")).unwrap();
    place.fails(&format!("{TRAIN} --store s --data bad.tsv"), 1, &["bad.tsv:901:", "the label '2' is neither 0 nor 1"]);
    place.ok(&format!("{TRAIN} --store t --data good.tsv --max-samples 768"));
    assert_eq!(place.json("inspect s")["last_commit"], "1.3");
    assert_eq!(place.digest("s"), place.digest("t"), "what was committed before the bad line");
    std::fs::write(place.path("bad.tsv"), &good).unwrap();
    place.fails(&format!("{TRAIN} --store s --data bad.tsv"), 2, &["begun with criteo (bad.tsv), which has changed since"]);
}

#[test]
fn what_is_not_there_is_said() {
    let place = Place::new();
    place.fails("train deepfm --store s --data nowhere.csv", 1, &["cannot open nowhere.csv: No such file"]);
    assert!(!place.path("s").exists());
    for line in ["inspect s", "checkpoint s", "verify s", "restore s --to t"] {
        place.fails(line, 1, &["s is not an embedrock store"]);
    }
    std::fs::create_dir(place.path("s")).unwrap();
    std::fs::write(place.path("s/thesis.txt"), "years of work").unwrap();
    for line in ["inspect s", "checkpoint s", "verify s", "restore s --to t", "train deepfm --store s --samples 10"] {
        place.fails(line, 1, &["s is not an embedrock store", "IDENTITY"]);
    }
    assert_eq!(command::files_below(&place.path("s")).len(), 1, "files were left in a directory that is no store");
    std::fs::write(place.path("f.csv"), "hello\n").unwrap();
    place.fails("train deepfm --store t --data f.csv", 1, &["f.csv:1:", "not known by its first line 'hello'"]);
}

#[test]
fn another_job_and_another_schema_are_refused() {
    let place = Place::new();
    let train = |more: &str| format!("{TRAIN} --store s --samples 500 {more}");
    place.ok(&train(""));
    let digest = place.digest("s");
    place.fails(
        &train("--factors 8 --seed 9").replacen("--factors 4", "", 1),
        2,
        &["begun with factors 4, seed 1, not with factors 8, seed 9"],
    );
    place.fails(&train("--users 77"), 2, &["begun with synthetic clicks (seed 1,", "not with synthetic clicks"]);
    assert_eq!(place.digest("s"), digest);

    let store = Store::open(place.path("t"), StoreOptions::default().memory_budget(24 << 20)).unwrap();
    let table = store.create_table(TableSchema::new("feature", 3)).unwrap();
    table.assign(&[1, 2], &[0.5; 6], &Update::at(5)).unwrap();
    store.commit(b"").unwrap();
    drop((table, store));
    let digest = place.digest("t");
    place.fails(&train("").replace("--store s", "--store t"), 1, &["table 'feature' has another schema", "dim"]);
    assert_eq!(place.digest("t"), digest);
}

#[test]
fn a_store_in_use_names_the_process_that_holds_it() {
    let place = Place::new();
    let store = Store::open(place.path("s"), StoreOptions::default().memory_budget(24 << 20)).unwrap();
    let holder = format!("s is in use by process {}", std::process::id());
    for line in ["inspect s", "checkpoint s", "verify s", "train deepfm --store s --samples 10"] {
        place.fails(line, 1, &[&holder, "close the other store first"]);
    }
    store.create_table(TableSchema::new("t", 2)).unwrap().assign(&[1], &[0.5; 2], &Update::at(5)).unwrap();
    let commit = store.commit(b"").unwrap();
    let digest = store.digest().unwrap().to_string();
    // What only reads sees the last commit.
    assert_eq!(place.json("checkpoint s --to copies")["commit"].as_str(), Some(&*commit.to_string()));
    place.ok("restore s --to t");
    drop(store);
    place.ok("restore --from copies --to u");
    assert_eq!((place.digest("t"), place.digest("u")), (digest.clone(), digest));
}

#[test]
fn restore_brings_any_commit_back_and_touches_nothing_that_exists() {
    let place = Place::new();
    let train = |most: u64| format!("{TRAIN} --store s --samples 2000 --hot-rows 50 --max-samples {most}");
    let digests: Vec<String> = [512, 1024, 2000]
        .into_iter()
        .map(|most| {
            place.ok(&train(most));
            place.digest("s")
        })
        .collect();
    let commits = place.json("inspect s --commits")["commits"].clone();
    let commits: Vec<&str> = commits.as_array().unwrap().iter().map(|commit| commit.as_str().unwrap()).collect();
    assert_eq!(commits, ["1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7", "1.8"]);
    for (commit, target, expected) in [("1.2", "a", 0), ("1.4", "b", 1), ("1.8", "c", 2)] {
        assert!(place.ok(&format!("restore s --to {target} --at {commit}")).contains(&format!("commit {commit} of s")));
        assert_eq!(place.digest(target), digests[expected]);
    }
    let report = place.json("restore s --to d");
    assert_eq!(report["commit"], "1.8");
    assert!(report["tables"][0]["rows"].as_u64().unwrap() > 100 && report["state_bytes"].as_u64().unwrap() > 100);
    assert_eq!(place.digest("d"), digests[2]);
    // A job goes on from a restored commit, in a timeline of its own, and comes to the same end.
    let resumed = place.json(&train(2000).replace("--store s", "--store a"));
    assert_eq!((&resumed["resumed_from"], &resumed["commit"]), (&"1.2".into(), &"2.8".into()));
    assert_eq!(place.digest("a"), digests[2]);

    std::fs::create_dir(place.path("mine")).unwrap();
    place.fails("restore s --to mine", 1, &["mine exists: choose a directory that does not"]);
    place.fails("restore s --to e --at 1.99", 1, &["commit 1.99 cannot be restored", "inspect --commits"]);
    let dry = place.json("restore s --dry-run --at 1.4");
    assert_eq!((&dry["commit"], &dry["tables"][0]["name"]), (&"1.4".into(), &report["tables"][0]["name"]));
    let table = report["tables"][0]["name"].as_str().unwrap();
    place.ok(&format!("restore s --to f --tables {table} --memory-budget 32MiB"));
    assert_eq!(place.digest("f"), digests[2]);
    place.fails("restore s --to e --tables nobody", 1, &["nobody"]);
    assert_eq!(place.run("restore s").code, Some(2));
    assert!(!place.path("e").exists() && std::fs::read_dir(place.path("mine")).unwrap().next().is_none());
}

#[test]
fn checkpoint_plan_and_generate_say_what_they_did() {
    let place = Place::new();
    place.ok("generate --to clicks.csv --samples 800 --users 90 --items 20 --seed 3");
    place.fails("generate --to clicks.csv", 1, &["cannot create clicks.csv", "exists"]);
    assert_eq!(std::fs::read_to_string(place.path("clicks.csv")).unwrap().lines().count(), 801);
    let made = place.json("generate --to more.tsv --layout criteo --samples 10");
    assert_eq!((&made["samples"], &made["synthetic"]), (&10.into(), &true.into()));
    place.ok(&format!("{TRAIN} --store s --data clicks.csv --checkpoint-every 0"));
    let (digest, before) = (place.digest("s"), place.json("inspect s"));
    assert!(place.ok("checkpoint s").contains("s: base 1 at commit 1.4"));
    assert_eq!(place.json("checkpoint s")["base"], 2);
    assert!(place.ok("inspect s").contains("at commit 1.4 (base 2 and 0 commits after it)"));
    assert_eq!(place.digest("s"), digest);
    let after = place.json("inspect s");
    assert_eq!((&after["tables"][0]["rows"], &after["clock"]), (&before["tables"][0]["rows"], &before["clock"]));

    let plan = place.json("plan --rows 1000000 --dim 64 --optimizer adam");
    assert_eq!(plan["row_bytes"].as_u64(), Some(64 * 3 * 4 + 8));
    assert!(plan["memory_bytes"].as_u64() > Some(776_000_000) && plan["cold_memory_bytes"].as_u64() > Some(7_000_000));
    assert!(place.ok("plan --rows 10 --dim 2").contains("10 rows of dim 2 with adagrad"));
}

#[test]
fn bench_measures_every_operation_and_leaves_nothing_behind() {
    let place = Place::new();
    let report = place.json("bench --quick --dir .");
    let figures = report["figures"].as_array().unwrap();
    for operation in ["lookup", "miss", "update", "mixed", "insert"] {
        let of_store = figures.iter().filter(|f| f["operation"] == operation && f["candidate"] == "embedrock");
        assert!(of_store.clone().count() > 0, "{operation}: {report}");
        assert!(of_store.clone().all(|f| f["rows_per_second"].as_f64().unwrap() > 0.0), "{operation}: {report}");
    }
    assert!(command::files_below(&place.path(".")).is_empty());
    place.fails("bench --quick --dir missing", 1, &["missing"]);
    let refused = place.run("bench --distribution zipf:1");
    assert!(refused.code == Some(2) && refused.err.contains("an exponent is 0.1 to 4"), "{refused:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    place.ok("train deepfm --store s --samples 100");
    let mut child = place.command("inspect s --commits").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

#[test]
fn a_copy_elsewhere_is_sent_listed_and_restored() {
    let place = Place::new();
    place.ok(&format!("{TRAIN} --samples 3000 --store s"));
    let sent = place.json("checkpoint s --to elsewhere");
    assert!(sent["bytes_sent"].as_u64().unwrap() > 0 && sent["bytes_sent"].as_u64() <= sent["bytes"].as_u64(), "{sent}");
    assert!(place.ok("checkpoint s --to elsewhere").contains(" 0 B sent of "));
    let listed = place.json("restore --from elsewhere --list");
    let newest = listed[0]["commit"].as_str().unwrap();
    assert!(place.ok("restore --from elsewhere --list").contains(&format!("commit {newest} of store ")));
    place.ok("restore --from elsewhere --to t");
    assert_eq!(place.digest("t"), place.digest("s"));
    let first = listed[0]["commits"][0].as_str().unwrap();
    place.ok(&format!("restore --from elsewhere --to u --at {first}"));
    place.ok(&format!("restore s --to v --at {first}"));
    assert_eq!(place.digest("u"), place.digest("v"));
    place.ok("restore --from elsewhere --dry-run");
    let packed = place.json("checkpoint s --to packed --zstd --quantize bf16 --recheck");
    assert!(packed["bytes_sent"].as_u64().unwrap() < sent["bytes_sent"].as_u64().unwrap(), "{packed} after {sent}");
    let listed = place.json("restore --from packed --list");
    assert_eq!((listed[0]["compressed"].as_bool(), listed[0]["quantization"].as_str()), (Some(true), Some("bf16")));
    let id = listed[0]["store"].as_str().unwrap();
    assert!(place.ok(&format!("restore --from packed --to p --store-id {id} --shards 3")).contains("quantised"));
    assert_ne!(place.digest("p"), place.digest("s"));
    place.fails("restore --from packed --to q --store-id ffff0000", 1, &["no copy"]);
    assert_eq!(place.run("checkpoint s --zstd").code, Some(2));
    place.fails("restore --from elsewhere --to t", 1, &["t exists"]);
    place.fails("restore --from s3://bucket/x --to w", 1, &["Cargo feature s3"]);
    place.fails("restore s --from elsewhere --to w", 2, &[]);
    place.fails("restore --from nothing-here --to w", 1, &["no copy in nothing-here"]);
}

/// While a job runs Prometheus is answered, and the store's status can be followed without opening it.
#[test]
fn a_running_job_tells_its_figures() {
    let place = Place::new();
    place.fails("inspect none --watch", 1, &["no STATUS"]);
    let mut job = place.start("train deepfm --store s --samples 100000000 --metrics 127.0.0.1:0");
    let mut said = BufReader::new(job.stderr.take().unwrap()).lines().map(Result::unwrap);
    let address =
        said.find_map(|line| Some(line.strip_prefix("metrics at http://")?.strip_suffix("/metrics")?.to_owned())).unwrap();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let trained = |answer: &str| answer.lines().any(|line| line.starts_with("embedrock_batches_total ") && !line.ends_with(" 0"));
    let mut answer = get("/metrics");
    while !trained(&answer) {
        std::thread::sleep(std::time::Duration::from_millis(50));
        answer = get("/metrics");
    }
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("# TYPE embedrock_hot_rows gauge"), "{answer}");
    assert!(answer.contains("embedrock_looked_up_keys_total{table=\"") && get("/other").starts_with("HTTP/1.1 404"));
    let lines = place.ok("inspect s --watch --every 0.1 --lines 2");
    assert!(lines.lines().count() == 2 && lines.contains("lookups/s") && lines.contains("memory"), "{lines}");
    let line: serde_json::Value = serde_json::from_str(&place.ok("inspect s --watch --lines 1 --json")).unwrap();
    assert!(line["pid"] == job.id() && line["figures"]["embedrock_memory_budget_bytes"].as_f64().unwrap() > 0.0, "{line}");
    job.kill().unwrap();
    job.wait().unwrap();
    // What it left says nothing about rows: the store opens as ever.
    place.ok("inspect s");
    fs::write(place.path("s/STATUS"), "embedrock_rows 7\n# crc 00000000\n").unwrap();
    place.fails("inspect s --watch", 1, &["checksum"]);
}

/// Killed when this goes.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_serving_copy_follows_a_store_that_is_trained_meanwhile() {
    let place = Place::new();
    let train = |samples: u64| place.ok(&format!("{TRAIN} --store s --samples 1000000 --max-samples {samples}"));
    let commit = || place.json("inspect s")["last_commit"].as_str().unwrap().to_owned();
    train(2000);
    let first = commit();
    let once = place.json("follow s --replica r --once");
    assert_eq!((once["commit"].as_str(), &once["restarted"]), (Some(first.as_str()), &serde_json::Value::Null));
    let line = "follow s --replica r --interval 50ms --json";
    let mut follower = Background(place.command(line).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((next()["commit"].as_str(), next()["lag_commits"].as_u64()), (Some(first.as_str()), Some(0)));
    train(4000);
    let last = commit();
    assert_ne!(last, first);
    let mut applied = 0;
    loop {
        let line = next();
        applied += line["applied"].as_u64().unwrap();
        if line["commit"] == last.as_str() {
            break;
        }
    }
    assert!(applied > 1, "{applied}");
    place.fails("follow s --replica r --once", 1, &["r is in use by process"]);
    drop(follower);
    assert!(place.ok("follow s --replica r --once").contains(&format!("commit {last}: was 0 commits")));
    place.ok("checkpoint s --to copies");
    let coded = "follow --from copies --replica r --interval 10ms --codec int8 --codec feature=f32 --codec feature/0=bf16";
    let mut follower = Background(place.command(&format!("{coded} --syncs 1")).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains(&format!("commit {last}: was 0 commits")));
    train(6000);
    place.ok("checkpoint s --to copies");
    let sum = lines.map(|line| line.unwrap()).find(|line| line.starts_with("1 syncs of")).unwrap();
    assert!(sum.contains("of a full copy (") && follower.0.wait().unwrap().success(), "{sum}");
    place.fails("follow none --replica r --once", 1, &["none"]);
}

/// One request with a body; status, headers and body of the answer.
fn post(address: &str, path: &str, kind: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer.split_off(end + 4))
}

#[test]
fn lookups_and_figures_of_a_serving_copy_are_answered_over_http() {
    let place = Place::new();
    let store = Store::open(place.path("s"), StoreOptions::default().memory_budget(64 << 20)).unwrap();
    let table = store.create_table(TableSchema::new("t", 2)).unwrap();
    table.assign(&[7, u64::MAX], &[1.5, -2.0, 0.25, 8.0], &Update::at(1_700_000_000)).unwrap();
    let first = store.commit(b"").unwrap();
    let line = "follow s --replica r --interval 20ms --memory-budget 64MiB --http 127.0.0.1:0";
    let mut follower = Background(place.command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(follower.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let address = said.find_map(|line| Some(line.strip_prefix("serving at http://")?.to_owned())).unwrap();
    let json = |body: &str| {
        let (head, body) = post(&address, "/lookup/t", "application/json", body.as_bytes());
        (head, serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default())
    };
    let (head, answer) = json(&format!("{{\"keys\": [7, 8, {}]}}", u64::MAX));
    assert!(head.starts_with("HTTP/1.1 200") && head.contains(&format!("x-embedrock-commit: {first}")), "{head}");
    assert_eq!(
        answer,
        serde_json::json!({"commit": first.to_string(), "found": [true, false, true], "rows": [[1.5, -2.0], [0.0, 0.0], [0.25, 8.0]]})
    );
    table.assign(&[8], &[3.0, 4.0], &Update::at(1_700_000_001)).unwrap();
    let second = store.commit(b"").unwrap();
    let keys: Vec<u8> = [8u64, 9].iter().flat_map(|key| key.to_le_bytes()).collect();
    let mut binary = post(&address, "/lookup/t", "application/octet-stream", &keys);
    while !binary.0.contains(&format!("x-embedrock-commit: {second}")) {
        std::thread::sleep(std::time::Duration::from_millis(10));
        binary = post(&address, "/lookup/t", "application/octet-stream", &keys);
    }
    let expected: Vec<u8> = [3.0f32, 4.0, 0.0, 0.0].iter().flat_map(|value| value.to_le_bytes()).chain([1, 0]).collect();
    assert_eq!(binary.1, expected);
    let status = |path: &str, kind: &str, body: &[u8]| post(&address, path, kind, body).0[9..12].to_owned();
    assert_eq!(status("/lookup/other", "application/json", b"{\"keys\": [1]}"), "404");
    for body in ["", "{}", "{\"keys\": [-1]}", "{\"keys\": [18446744073709551616]}", "{\"keys\": 7}"] {
        assert_eq!(status("/lookup/t", "application/json", body.as_bytes()), "400", "{body}");
    }
    assert_eq!(status("/lookup/t", "application/octet-stream", &[1; 9]), "400");
    assert_eq!(status("/lookup/t", "application/octet-stream", &vec![1; 65_537 * 8]), "413", "too many keys");
    assert_eq!(status("/lookup/t", "application/octet-stream", &vec![1; 2 << 20]), "413", "too many bytes");
    assert_eq!(status("/tables", "application/json", b""), "405");
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get("/tables").contains(r#"{"dim":2,"name":"t","rows":3}"#));
    let figures = get("/metrics");
    for figure in ["lag_commits 0", "lag_seconds 0", "rows{table=\"t\"} 3", "commits_total 1", "restarts_total 0"] {
        assert!(figures.contains(&format!("embedrock_replica_{figure}\n")), "no {figure} in {figures}");
    }
    place.fails(&format!("follow s --replica other --http {address}"), 1, &["cannot listen on"]);
}

#[test]
fn events_become_examples_each_once_whenever_the_join_is_killed() {
    let place = Place::new();
    let event = |at: u64| match at % 3 {
        0 => format!("{{\"request\": {}, \"time\": {}, \"keys\": [{at}, 7]}}\n", at / 3, 1_700_000_000 + at),
        1 => format!("{{\"request\": {}, \"time\": {}, \"label\": {}}}\n", at / 3, 1_700_000_000 + at, at % 2),
        _ => {
            format!("{{\"request\": {}, \"time\": {}, \"keys\": [1, {at}], \"dense\": []}}\n", 1_000_000 + at, 1_700_000_000 + at)
        }
    };
    let events: String = (0..60_000).map(event).collect();
    fs::write(place.path("events"), &events).unwrap();
    let line = "join events --keys 2 --wait 10m --remember 5m --negatives 0.3 --memory-budget 24MiB --commit-every 2000";
    let whole = place.json(&format!("{line} --store whole --out expected"));
    assert_eq!(whole["joined"].as_u64(), Some(20_000), "{whole}");
    for life in 0..4 {
        let mut join = Background(place.start(&format!("{line} --store s --out out")));
        while join.0.try_wait().unwrap().is_none()
            && fs::metadata(place.path("out")).map_or(0, |out| out.len()) < life * 150_000 + 1
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    let resumed = place.json(&format!("{line} --store s --out out"));
    assert_eq!(resumed, whole);
    let read = |name: &str| fs::read_to_string(place.path(name)).unwrap();
    assert!(read("out") == read("expected"), "the examples differ");
    assert_eq!(read("out").lines().count() as u64, whole["examples"].as_u64().unwrap());
    let first: serde_json::Value = serde_json::from_str(read("out").lines().next().unwrap()).unwrap();
    assert!((first["offset"].as_f64().unwrap() + 0.3f64.ln()).abs() < 1e-6 && first["keys"].as_array().unwrap().len() == 2);
    place.fails(&format!("{line} --store s --out out --seed 9"), 2, &["other options"]);
    fs::write(place.path("odd"), "{\"request\": 1, \"time\": 5}\n").unwrap();
    place.fails("join odd --keys 2 --store odd-store --out odd-out", 1, &["odd at byte 0", "either keys"]);
    fs::write(place.path("out"), "").unwrap();
    place.fails(&format!("{line} --store s --out out"), 1, &["lost examples"]);
}
