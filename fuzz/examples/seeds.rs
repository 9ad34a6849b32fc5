//! Writes first inputs for `segment`, `records` and `cold`, from a store that a seeded workload made: `cargo run --release --example seeds`.

#[path = "../../tests/driver/mod.rs"]
mod driver;

use std::fs;
use std::path::Path;

fn main() {
    let disk = driver::disk();
    driver::Driver::default().run(&disk, 25).unwrap().unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (path, bytes) in disk.files() {
        let name = path.file_name().unwrap().to_string_lossy().replace('.', "-");
        let (target, input) = match () {
            () if name.ends_with("log") || name == "hot-rows" => ("segment", [&[1], bytes.as_slice()].concat()),
            () if name == "twin-rows" && path.starts_with("/disk/store/base") => ("cold", [&[1], bytes.as_slice()].concat()),
            // Its checksum is made anew.
            () if name == "MANIFEST" => ("records", bytes[..bytes.len() - 4].to_vec()),
            () => continue,
        };
        fs::create_dir_all(corpus.join(target)).unwrap();
        if input.len() < 20_000 {
            fs::write(corpus.join(target).join(&name), &input).unwrap();
        }
    }
}
