//! `embedrock checkpoint`: a new base, so that recovery begins there; or a copy elsewhere.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use embedrock::{Error, Quantization, Remote, Store, Upload};

use serde_json::json;

use crate::bars;
use crate::memory::ColdMemory;
use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store
    store: PathBuf,
    /// Send a copy of the last commit here instead, a directory or a URL: what lies there already is not sent again
    #[arg(long, value_name = "DIR_OR_URL")]
    to: Option<String>,
    /// Compress the copy by zstd, at this level
    #[arg(long, value_name = "LEVEL", requires = "to", num_args = 0..=1, default_missing_value = "3",
          value_parser = clap::value_parser!(i32).range(1..=22))]
    zstd: Option<i32>,
    /// Embeddings of the copy in fewer bytes: f16, bf16, int8 or one-bit. What is restored from it is not the commit bit for bit
    #[arg(long, value_name = "CODEC", requires = "to")]
    quantize: Option<Quantization>,
    /// Read what lies there already, and send again what is damaged
    #[arg(long, requires = "to")]
    recheck: bool,
    /// A directory for temporary files; the system's by default
    #[arg(long, value_name = "DIR", requires = "to")]
    scratch: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Memory to open the store in
    #[arg(long, value_parser = output::size, value_name = "BYTES", default_value = "1GiB")]
    memory_budget: usize,
    #[command(flatten)]
    cold_memory: ColdMemory,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let options = args.cold_memory.options(args.memory_budget).create(false);
    let options = args.scratch.as_ref().map_or(options.clone(), |scratch| options.scratch(scratch));
    let store = match Store::open(&args.store, options.clone()) {
        // A copy only reads.
        Err(Error::Locked { .. } | Error::ReadOnly { .. }) if args.to.is_some() => {
            Store::open(&args.store, options.read_only(true))?
        }
        store => store?,
    };
    let at = store.recovery().at;
    if let Some(place) = &args.to {
        let bar = bars::transfer_bar();
        let mut progress = |transfer| bars::show_transfer(&bar, transfer);
        let sent = store.upload_as(&Remote::open(place)?, &upload(args), &mut progress)?;
        bar.finish_and_clear();
        if args.json {
            output::json(&json!({"commit": at.to_string(), "bytes": sent.total, "bytes_sent": sent.moved}))?;
        } else {
            let (sent, total) = (output::bytes(sent.moved), output::bytes(sent.total));
            say!("{place}: commit {at} of {}, {sent} sent of {total}", args.store.display());
        }
        return output::done();
    }
    let base = store.checkpoint()?;
    if args.json {
        output::json(&json!({"base": base, "commit": at.to_string()}))?;
    } else {
        say!("{}: base {base} at commit {at}", args.store.display());
    }
    output::done()
}

fn upload(args: &Args) -> Upload {
    let mut upload = Upload::default().recheck(args.recheck).memory_budget(args.memory_budget);
    if let Some(level) = args.zstd {
        upload = upload.compress(level);
    }
    if let Some(codec) = args.quantize {
        upload = upload.quantize(codec);
    }
    args.scratch.as_ref().map_or(upload.clone(), |scratch| upload.scratch(scratch))
}
