//! Replays frames without their rows: whether each decodes to something that the tables of its moment can take. What is held is their schemas.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::admission::PARTITIONS;
use crate::log::{CommitRecord, Frame, Rows};
use crate::schema::TableSchema;
use crate::types::TableId;

/// What is known of a table.
#[derive(Clone, Debug)]
enum Known {
    Created(Box<TableSchema>),
    /// By its rows: it was created before the log begins.
    Seen {
        lanes: u32,
    },
}

/// The tables that the frames so far lead to. Frames are refused as they are when they are loaded ([`crate::catalog::Catalog::load`]), and for
/// more: what no store writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Rehearsal {
    tables: BTreeMap<TableId, Known>,
    next: u32,
    /// Where the log begins is behind the creation of some tables.
    pub(super) midway: bool,
    /// The base begun with reaches into the delta in hand: see [`crate::catalog::Catalog::is_behind`].
    pub(super) reached: bool,
    state_bytes: u64,
    last: Option<CommitRecord>,
}

impl Rehearsal {
    /// What a frame does; an error says why it cannot. A commit must fit what came before it.
    pub(super) fn apply(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        match frame {
            Frame::CreateTable { table, schema } => self.create(*table, schema),
            Frame::DropTable { table } => {
                self.need(*table)?;
                self.tables.remove(table);
                Ok(())
            }
            Frame::Settings { table, schema } => self.set(*table, schema),
            Frame::Rows { table, lanes, images } => {
                if let Some(Known::Seen { lanes: 0 }) = self.need(*table)? {
                    self.tables.insert(*table, Known::Seen { lanes: *lanes });
                }
                let expected = match self.need(*table)? {
                    Some(Known::Created(schema)) => schema.lanes(),
                    Some(Known::Seen { lanes }) => *lanes as usize,
                    None => return Ok(()),
                };
                if *lanes as usize != expected {
                    return Err(format!("rows of {lanes} values in a table of {expected}"));
                }
                check_reserved(images)
            }
            Frame::Quantized { table, lanes, dim, codec, images } => {
                if let Some(Known::Created(schema)) = self.need(*table)?
                    && (*lanes as usize, *dim as usize) != schema.unpacked_shape()
                {
                    return Err(format!("rows of {lanes} values in a table of {}", schema.lanes()));
                }
                let bytes = codec.encoded_bytes(*dim as usize);
                let mut row = vec![0.0; *dim as usize];
                let odd = images.iter().find(|(_, _, image)| image.get(..bytes).is_none_or(|code| !codec.decode(code, &mut row)));
                odd.map_or(Ok(()), |(key, ..)| Err(format!("the row of key {key} does not decode as {codec}")))
            }
            Frame::Removed { table, .. } | Frame::Counts { table, .. } => self.need(*table).map(drop),
            Frame::Filter { table, images } => {
                self.need(*table)?;
                let fits = (images.partition as usize) < PARTITIONS;
                if fits { Ok(()) } else { Err(format!("part {} of an admission filter", images.partition)) }
            }
            Frame::State(chunk) => {
                self.state_bytes += chunk.len() as u64;
                Ok(())
            }
            Frame::Commit(record) => self.commit(record),
        }
    }

    /// The table; none where that is no error.
    fn need(&mut self, id: TableId) -> Result<Option<&Known>, String> {
        if !self.tables.contains_key(&id) {
            if self.reached && id.0 < self.next {
                return Ok(None);
            }
            if !self.midway {
                return Err(format!("a frame names table {}, which was not created", id.0));
            }
            self.tables.insert(id, Known::Seen { lanes: 0 });
        }
        Ok(self.tables.get(&id))
    }

    fn create(&mut self, id: TableId, schema: &[u8]) -> Result<(), String> {
        let schema = TableSchema::decode(schema)?;
        let held = |(other, known): (&TableId, &Known)| {
            matches!(known, Known::Created(held) if held.name() == schema.name()).then_some(*other)
        };
        let holder = self.tables.iter().find_map(held);
        self.next = self.next.max(id.0.saturating_add(1));
        match self.tables.get(&id) {
            Some(Known::Created(known)) if self.reached => {
                return known.check_same_identity(&schema).map_err(|error| error.to_string());
            }
            None if self.reached && holder.is_some_and(|holder| holder > id) => return Ok(()),
            None if holder.is_none() => {}
            _ => return Err(format!("table '{}' is created twice", schema.name())),
        }
        self.tables.insert(id, Known::Created(Box::new(schema)));
        Ok(())
    }

    fn set(&mut self, id: TableId, schema: &[u8]) -> Result<(), String> {
        let schema = TableSchema::decode(schema)?;
        match self.need(id)? {
            Some(Known::Created(known)) if known.name() != schema.name() => {
                return Err(format!("table '{}' becomes '{}'", known.name(), schema.name()));
            }
            Some(Known::Created(known)) => known.check_same_identity(&schema).map_err(|error| error.to_string())?,
            Some(Known::Seen { lanes }) if *lanes != 0 && schema.lanes() != *lanes as usize => {
                return Err(format!(
                    "table '{}' has rows of {lanes} values and becomes one of {}",
                    schema.name(),
                    schema.lanes()
                ));
            }
            Some(Known::Seen { .. }) => {}
            None => return Ok(()),
        }
        self.tables.insert(id, Known::Created(Box::new(schema)));
        Ok(())
    }

    /// The commit that a base follows. Its tables are those of a later moment.
    pub(super) fn begin(&mut self, record: &CommitRecord) -> Result<(), String> {
        let state = std::mem::take(&mut self.state_bytes);
        self.next = self.next.max(record.next_table);
        self.last = Some(record.clone());
        let fits = record.state_bytes == state;
        if fits { Ok(()) } else { Err(format!("the commit's state has {state} bytes, expected {}", record.state_bytes)) }
    }

    fn commit(&mut self, record: &CommitRecord) -> Result<(), String> {
        if let Some(last) = &self.last
            && (record.clock < last.clock || record.batches < last.batches)
        {
            return Err(format!("the clock or the number of batches goes back after commit {}", last.id));
        }
        if !self.midway && !self.reached {
            let unknown = record.rows.iter().find(|(id, _)| !self.tables.contains_key(id));
            if let Some((id, _)) = unknown {
                return Err(format!("the commit counts the rows of table {}, which was not created", id.0));
            }
        }
        self.begin(record)
    }
}

fn check_reserved(images: &Rows<'_>) -> Result<(), String> {
    let odd = images.headers().find(|(_, reserved)| *reserved != 0);
    odd.map_or(Ok(()), |(key, _)| Err(format!("the image of key {key} has bytes where there should be none")))
}
