//! The memory that a store is opened in.
#![forbid(unsafe_code)]

use embedrock::StoreOptions;

use crate::output;

#[derive(clap::Args)]
pub(crate) struct ColdMemory {
    /// Of the memory budget, what is for filters and indexes of cold rows, and for those that wait to be written [default: an
    /// eighth, 8MiB to 256MiB]
    #[arg(long, value_parser = output::size, value_name = "BYTES")]
    cold_memory: Option<usize>,
}

impl ColdMemory {
    pub(crate) fn options(&self, memory_budget: usize) -> StoreOptions {
        let options = StoreOptions::default().memory_budget(memory_budget);
        self.cold_memory.map_or(options.clone(), |bytes| options.cold_memory(bytes))
    }
}
