//! Layouts of index and rows, as loops without a store around them, beside `embedrock bench`:
//! `cargo bench --features cli,testing --bench layouts -- --dim 16,64 --rows 4000000`.
//!
//! They read and change the same rows as all other candidates of that bench do, and are checked as they are. Under `cargo test` it runs
//! for an instant.

#[path = "../src/bin/embedrock/bench/mod.rs"]
mod bench;
#[path = "layouts/line.rs"]
mod line;
#[path = "../src/bin/embedrock/output.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the command line, which needs more of it")]
mod output;
#[path = "layouts/rows.rs"]
mod rows;
#[path = "layouts/table.rs"]
mod table;
#[path = "../src/bin/embedrock/text.rs"]
#[allow(dead_code, reason = "shared with the command line, which needs more of it")]
mod text;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Layouts of index and rows beside this store, in one run")]
struct Cli {
    #[command(flatten)]
    args: bench::Args,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let measured = std::env::args().any(|arg| arg == "--bench");
    let given = std::env::args().filter(|arg| arg != "--bench");
    let quick = if measured { None } else { Some("--quick".to_owned()) };
    let cli = Cli::parse_from(given.chain(quick));
    bench::run(&cli.args, &[table::tags_and_metas, table::tags_and_blocks, table::tags_and_headers, table::keys])?;
    Ok(())
}
