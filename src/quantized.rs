//! A commit written as a store of one file, its embeddings in fewer bytes: what quantised copies are made of.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::write_filter;
use crate::context::read;
use crate::delta::{FRAME_BYTES, write_part};
use crate::error::Result;
use crate::fs::{Fs, Scratch, names};
use crate::log::{CommitRecord, FrameBuf, LogWriter, SegmentHeader};
use crate::manifest::{FileSum, Manifest};
use crate::options::StoreOptions;
use crate::quantize::Quantization;
use crate::recovery::{Chain, Identity, Rebuilt, Site, Survey, rebuild};
use crate::shard::{Part, Scan};
use crate::table::TableInner;

/// Buckets of an index visited under one lock.
const BUCKETS_A_VISIT: usize = 4096;

/// Rebuilds a commit of the store in `dir` and writes it, quantised, as a store with one base in the directory `scratch`.
pub(crate) fn write_quantized(
    fs: &Arc<dyn Fs>,
    (dir, identity): (&Path, Identity),
    (survey, chain): (&Survey, &Chain),
    options: &StoreOptions,
    (scratch, codec): (&Arc<Scratch>, Quantization),
) -> Result<()> {
    let to = scratch.path();
    let site = Site {
        fs: Arc::clone(fs),
        dir,
        live: names::live(to),
        identity,
        read_only: true,
        serving: false,
        scratch: Some(Arc::clone(scratch)),
        lock: None,
    };
    let rebuilt = rebuild(&site, options, survey, chain)?;
    for made in [names::logs(to), names::bases(to), names::base(to, 1)] {
        fs.create_dir(&made)?;
    }
    let base = names::base(to, 1);
    let record = write_rows(&**fs, &base.join(names::HOT_ROWS), identity, &rebuilt, codec)?;
    let files = vec![FileSum::of(&**fs, &base, names::HOT_ROWS.to_owned())?];
    let manifest = Manifest { number: 1, begin: record.id, begin_hash: record.hash, still: true, first_segment: 1, files };
    fs.create(&base.join(names::MANIFEST))?.append(&manifest.encode())?;
    identity.write(&**fs, to)
}

fn write_rows(fs: &dyn Fs, path: &Path, identity: Identity, rebuilt: &Rebuilt, codec: Quantization) -> Result<CommitRecord> {
    let (record, state) = rebuilt.log.tip();
    let header = SegmentHeader {
        store: identity.uuid,
        segment: 1,
        timeline: record.id.timeline,
        parent: record.id,
        parent_hash: record.hash,
        continues: false,
    };
    let (mut writer, mut rows) = (LogWriter::create(fs, path, &header)?, Vec::new());
    for table in rebuilt.catalog.tables() {
        writer.append(&FrameBuf::create_table(table.id, &table.schema().encode()))?;
        rows.push((table.id, write_table(&mut writer, &table, codec)?));
        write_counts(&mut writer, &table)?;
    }
    for chunk in state.chunks(FRAME_BYTES) {
        writer.append(&FrameBuf::state(chunk))?;
    }
    // Expired rows are not in it.
    let record = CommitRecord { rows, ..record };
    writer.append(&FrameBuf::commit(&record))?;
    writer.finish()?;
    Ok(record)
}

/// Returns how many rows there are.
fn write_table(writer: &mut LogWriter, table: &TableInner, codec: Quantization) -> Result<u64> {
    let schema = table.schema();
    let (shape, mut images, mut rows) = (schema.unpacked_shape(), Vec::new(), 0);
    table.for_each(&mut |key, time, lanes| {
        rows += 1;
        images.extend_from_slice(&key.to_le_bytes());
        images.extend_from_slice(&time.to_le_bytes());
        images.extend_from_slice(&[0; 4]);
        let state = &lanes[schema.embedding_lanes()..];
        codec.encode(&schema.embedding(lanes), &mut images);
        images.extend(state.iter().flat_map(|value| value.to_le_bytes()));
        if images.len() >= FRAME_BYTES {
            writer.append(&FrameBuf::quantized(table.id, shape, codec, &images))?;
            images.clear();
        }
        Ok(())
    })?;
    if !images.is_empty() {
        writer.append(&FrameBuf::quantized(table.id, shape, codec, &images))?;
    }
    Ok(rows)
}

fn write_counts(writer: &mut LogWriter, table: &TableInner) -> Result<()> {
    for shard in table.shards() {
        let (mut scan, mut part, mut done) = (Scan::default(), Part::default(), false);
        while !done {
            done = read(shard).scan(&mut scan, BUCKETS_A_VISIT, &mut part);
            part.images.clear();
            part.removed.clear();
            write_part(table, &mut part, &mut |frame| writer.append(frame))?;
        }
    }
    write_filter(writer, table)
}
