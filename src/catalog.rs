//! The tables of a store: created, found, dropped, and filled from the frames of a base or a delta.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use crate::context::{Context, Lender, lock, read, write};
use crate::error::{Error, Result};
use crate::log::{CommitRecord, Frame};
use crate::schema::TableSchema;
use crate::serving::{Codecs, Layout, Serving};
use crate::sync::RwLock;
use crate::table::{Loader, TableInner, with_loans};
use crate::types::TableId;

/// See the module.
pub(crate) struct Catalog {
    pub(crate) context: Arc<Context>,
    tables: RwLock<Tables>,
    shards: usize,
    /// Of a catalog that serves, whose rows are embeddings alone.
    serving: Option<Serving>,
}

#[derive(Default)]
struct Tables {
    by_id: BTreeMap<TableId, Arc<TableInner>>,
    next: u32,
}

impl Tables {
    /// From now on it is also one that lends memory to the others.
    fn insert(&mut self, table: Arc<TableInner>) {
        let lender: Weak<dyn Lender> = Arc::downgrade(&table) as _;
        let mut lenders = lock(&table.context.lenders);
        lenders.retain(|lender| lender.strong_count() > 0);
        lenders.push(lender);
        drop(lenders);
        self.by_id.insert(table.id, table);
    }
}

impl Catalog {
    pub(crate) fn new(context: Arc<Context>, shards: usize) -> Catalog {
        Catalog { context, tables: RwLock::default(), shards, serving: None }
    }

    /// A catalog that keeps of all rows the embeddings alone.
    pub(crate) fn for_serving(context: Arc<Context>, shards: usize, codecs: Codecs) -> Catalog {
        Catalog { serving: Some(Serving::new(codecs)), ..Catalog::new(context, shards) }
    }

    /// How a table's rows are served, in a catalog that serves.
    pub(crate) fn layout(&self, id: TableId) -> Option<Arc<Layout>> {
        self.serving.as_ref().and_then(|serving| serving.get(id))
    }

    /// The tables in the order of their creation.
    pub(crate) fn tables(&self) -> Vec<Arc<TableInner>> {
        read(&self.tables).by_id.values().cloned().collect()
    }

    /// The number that the next table gets.
    pub(crate) fn next_table(&self) -> u32 {
        read(&self.tables).next
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<TableInner>> {
        read(&self.tables).by_id.values().find(|table| table.schema().name() == name).cloned()
    }

    fn get(&self, id: TableId) -> Option<Arc<TableInner>> {
        read(&self.tables).by_id.get(&id).cloned()
    }

    /// Adds a table under the next free number. `log` makes the creation part of the open delta; if it fails nothing changed.
    pub(crate) fn create(&self, schema: TableSchema, log: impl FnOnce(TableId) -> Result<()>) -> Result<Arc<TableInner>> {
        let mut tables = write(&self.tables);
        let id = TableId(tables.next);
        let Some(next) = tables.next.checked_add(1) else {
            return Err(Error::InvalidSchema { table: schema.name().to_owned(), what: "no number is left for a table".into() });
        };
        let new = || TableInner::new(id, schema.clone(), Arc::clone(&self.context), self.shards);
        let table = Arc::new(with_loans(&self.context, &[], new)?);
        if let Err(error) = log(id) {
            let _ = self.context.cold.drop_table(id);
            return Err(error);
        }
        tables.next = next;
        tables.insert(Arc::clone(&table));
        Ok(table)
    }

    /// Drops a table and its cold rows.
    pub(crate) fn drop_table(&self, id: TableId) -> Result<()> {
        if let Some(table) = write(&self.tables).by_id.remove(&id) {
            table.mark_dropped();
        }
        self.context.cold.drop_table(id)
    }

    /// Does to the tables what a frame of a base or a committed delta says; rows with the help of `loader`.
    pub(crate) fn load(&self, loader: &mut Loader, frame: &Frame<'_>) -> Result<(), LoadError> {
        match frame {
            Frame::CreateTable { table, schema } => self.load_table(loader, *table, schema),
            Frame::DropTable { table } => {
                loader.finish()?;
                Ok(self.drop_table(*table)?)
            }
            Frame::Settings { table, schema } => {
                loader.finish()?;
                let table = self.need(*table)?;
                self.load_settings(&table, TableSchema::decode(schema)?)
            }
            Frame::Rows { table, lanes, images } => {
                let (table, layout) = (self.need(*table)?, self.layout(*table));
                let expected = layout.as_ref().map_or_else(|| table.schema().lanes(), |layout| layout.logged.lanes());
                if *lanes as usize != expected {
                    return Err(LoadError::Invalid(format!("rows of {lanes} values in a table of {expected}")));
                }
                let Some(layout) = layout else { return Ok(loader.rows(&table, images.bytes())?) };
                let mut served = Vec::new();
                images.iter().for_each(|(key, time, lanes)| layout.push((key, time), lanes, &mut served));
                Ok(loader.rows(&table, &served)?)
            }
            Frame::Quantized { table, lanes, dim, codec, images } => {
                let (table, layout) = (self.need(*table)?, self.layout(*table));
                let schema = layout.as_ref().map_or_else(|| (*table.schema()).clone(), |layout| layout.logged.clone());
                if (*lanes as usize, *dim as usize) != schema.unpacked_shape() {
                    return Err(LoadError::Invalid(format!("rows of {lanes} values in a table of {}", schema.lanes())));
                }
                let (mut embedding, mut rows) = (vec![0.0; schema.dim()], Vec::new());
                for (key, time, bytes) in images.iter() {
                    let (encoded, state) = bytes.split_at(codec.encoded_bytes(schema.dim()).min(bytes.len()));
                    if !codec.decode(encoded, &mut embedding) {
                        return Err(LoadError::Invalid(format!("key {key} has another length than its encoding")));
                    }
                    if let Some(layout) = &layout {
                        layout.push_values((key, time), &embedding, &mut rows);
                        continue;
                    }
                    rows.extend_from_slice(&key.to_le_bytes());
                    rows.extend_from_slice(&time.to_le_bytes());
                    rows.extend_from_slice(&[0; 4]);
                    rows.extend(schema.packed(&embedding).iter().flat_map(|value| value.to_le_bytes()));
                    rows.extend_from_slice(state);
                }
                Ok(loader.rows(&table, &rows)?)
            }
            Frame::Removed { table, keys } => Ok(loader.removed(&self.need(*table)?, keys.iter())?),
            Frame::Counts { .. } | Frame::Filter { .. } if self.serving.is_some() => Ok(()),
            Frame::Counts { table, counts } => Ok(loader.counts(&self.need(*table)?, counts.iter())?),
            Frame::Filter { table, images } => match self.need(*table)?.filter().load(images) {
                true => Ok(()),
                false => Err(LoadError::Invalid(format!("part {} of an admission filter", images.partition))),
            },
            Frame::State(_) | Frame::Commit(_) => Ok(()),
        }
    }

    /// Whether a frame of a delta that a base reaches into says what the base knows already: it has tables that were created since its commit, and
    /// has none that were dropped since, so frames of those mean nothing. A table whose name the base has under another number is one of them.
    pub(crate) fn is_behind(&self, frame: &Frame<'_>) -> Result<bool, LoadError> {
        let (Some(id), known) = (frame.table(), read(&self.tables)) else { return Ok(false) };
        let Frame::CreateTable { schema, .. } = frame else {
            return Ok(!known.by_id.contains_key(&id) && id.0 < known.next);
        };
        let schema = TableSchema::decode(schema)?;
        if let Some(table) = known.by_id.get(&id) {
            let known = self.layout(id).map_or_else(|| (*table.schema()).clone(), |layout| layout.logged.clone());
            known.check_same_identity(&schema).map_err(|error| error.to_string())?;
            return Ok(true);
        }
        let is_held = known.by_id.values().any(|table| table.id > id && table.schema().name() == schema.name());
        drop(known);
        if is_held {
            let mut tables = write(&self.tables);
            tables.next = tables.next.max(id.0.saturating_add(1));
        }
        Ok(is_held)
    }

    fn load_settings(&self, table: &TableInner, schema: TableSchema) -> Result<(), LoadError> {
        let layout = self.layout(table.id);
        let known = layout.map_or_else(|| (*table.schema()).clone(), |layout| layout.logged.clone());
        if known.name() != schema.name() {
            return Err(LoadError::Invalid(format!("table '{}' becomes '{}'", known.name(), schema.name())));
        }
        known.check_same_identity(&schema).map_err(|error| error.to_string())?;
        let schema = match &self.serving {
            None => schema,
            Some(serving) => {
                let layout = serving.layout(schema);
                let served = layout.served.clone();
                serving.insert(table.id, layout);
                served
            }
        };
        table.reserve_for(&schema)?;
        table.set_schema(schema);
        Ok(())
    }

    fn need(&self, id: TableId) -> Result<Arc<TableInner>, LoadError> {
        self.get(id).ok_or_else(|| LoadError::Invalid(format!("a frame names table {}, which was not created", id.0)))
    }

    fn load_table(&self, loader: &mut Loader, id: TableId, schema: &[u8]) -> Result<(), LoadError> {
        loader.finish()?;
        let mut schema = TableSchema::decode(schema)?;
        let layout = self.serving.as_ref().map(|serving| serving.layout(schema.clone()));
        if let Some(layout) = &layout {
            // What a base says first of all was loaded before its cold rows.
            if self.get(id).is_some_and(|known| *known.schema() == layout.served) {
                return Ok(());
            }
            schema = layout.served.clone();
        }
        if self.get(id).is_some() || self.find(schema.name()).is_some() {
            return Err(LoadError::Invalid(format!("table '{}' is created twice", schema.name())));
        }
        if let (Some(serving), Some(layout)) = (&self.serving, layout) {
            serving.insert(id, layout);
        }
        let table = TableInner::new(id, schema, Arc::clone(&self.context), self.shards)?;
        if self.context.cold.disk_bytes() > 0 || self.context.cold.tables().contains(&id) {
            table.assume_cold();
        }
        loader.make_room(&table);
        let mut tables = write(&self.tables);
        tables.next = tables.next.max(id.0.saturating_add(1));
        tables.insert(Arc::new(table));
        Ok(())
    }

    /// Takes over what a commit record says besides rows.
    pub(crate) fn load_commit(&self, record: &CommitRecord) {
        *lock(&self.context.clock) = crate::clock::Clock::restore(record.clock);
        self.context.batches.store(record.batches, Ordering::Relaxed);
        let mut tables = write(&self.tables);
        tables.next = tables.next.max(record.next_table);
        for (id, rows) in &record.rows {
            if let Some(table) = tables.by_id.get(id) {
                table.counters().rows.store(i64::try_from(*rows).unwrap_or(i64::MAX), Ordering::Relaxed);
            }
        }
        for table in tables.by_id.values() {
            table.publish_horizon();
        }
    }
}

/// Why a frame could not be loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// The frame contradicts what came before it: damage, though its checksum is right.
    Invalid(String),
    /// The store could not take it.
    Failed(Error),
}

impl From<String> for LoadError {
    fn from(what: String) -> Self {
        LoadError::Invalid(what)
    }
}

impl From<Error> for LoadError {
    fn from(error: Error) -> Self {
        LoadError::Failed(error)
    }
}
