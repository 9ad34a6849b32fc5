//! `embedrock bench` with peers: RocksDB alone, tuned. `cargo bench --features cli,testing --bench peers -- --dim 16,64`.
//!
//! Under `cargo test` it runs for an instant, so that it keeps working.

#[path = "../src/bin/embedrock/bench/mod.rs"]
mod bench;
#[path = "../src/bin/embedrock/output.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the command line, which needs more of it")]
mod output;
#[path = "peers/rocks.rs"]
mod rocks;
#[path = "../src/bin/embedrock/text.rs"]
#[allow(dead_code, reason = "shared with the command line, which needs more of it")]
mod text;

use clap::Parser;

#[derive(Parser)]
#[command(about = "This store beside the machine's limit and its peers, in one run")]
struct Cli {
    #[command(flatten)]
    args: bench::Args,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let measured = std::env::args().any(|arg| arg == "--bench");
    let given = std::env::args().filter(|arg| arg != "--bench");
    let quick = if measured { None } else { Some("--quick".to_owned()) };
    let cli = Cli::parse_from(given.chain(quick));
    bench::run(&cli.args, &[rocks::build])?;
    Ok(())
}
