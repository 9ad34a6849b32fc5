//! Calls over several tables, as models with tens of them make: one list of work for the threads, one batch against commits.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::buffers::Places;
use super::lookup::{Part as RowPart, check_length, share_of};
use super::pool::{Jobs, run_all};
use super::pooled::{BagPart, Bags};
use super::update::{self, Given};
use super::{Pooling, Table, TableInner, Update};
use crate::context::{Context, lock};
use crate::error::{Error, Result};
use crate::schema::TableSchema;
use crate::shard::{Batch, Op, Values};
use crate::types::Key;

/// One for each request or table of a call: without a visit to the heap where they are few.
type Few<T> = SmallVec<[T; 4]>;

/// Keys of one table for [`Store::lookup_many`](crate::Store::lookup_many), and where their embeddings go.
#[derive(Debug)]
pub struct LookupRequest<'a> {
    table: &'a Table,
    keys: &'a [Key],
    bags: Option<(&'a [usize], Pooling)>,
    out: &'a mut [f32],
}

impl<'a> LookupRequest<'a> {
    /// As [`Table::lookup`].
    pub fn new(table: &'a Table, keys: &'a [Key], out: &'a mut [f32]) -> Self {
        LookupRequest { table, keys, bags: None, out }
    }

    /// As [`Table::lookup_pooled`].
    pub fn pooled(table: &'a Table, keys: &'a [Key], offsets: &'a [usize], pooling: Pooling, out: &'a mut [f32]) -> Self {
        LookupRequest { table, keys, bags: Some((offsets, pooling)), out }
    }
}

/// Gradients of one table for [`Store::apply_gradients_many`](crate::Store::apply_gradients_many).
#[derive(Clone, Copy, Debug)]
pub struct GradientRequest<'a> {
    table: &'a Table,
    keys: &'a [Key],
    bags: Option<(&'a [usize], Pooling)>,
    grads: &'a [f32],
}

impl<'a> GradientRequest<'a> {
    /// As [`Table::apply_gradients`].
    pub fn new(table: &'a Table, keys: &'a [Key], grads: &'a [f32]) -> Self {
        GradientRequest { table, keys, bags: None, grads }
    }

    /// As [`Table::apply_pooled_gradients`].
    pub fn pooled(table: &'a Table, keys: &'a [Key], offsets: &'a [usize], pooling: Pooling, grads: &'a [f32]) -> Self {
        GradientRequest { table, keys, bags: Some((offsets, pooling)), grads }
    }
}

/// Looks up in several tables of a store; returns how many keys of each request have a row.
pub(crate) fn lookup_many<'a>(
    context: &Arc<Context>,
    requests: impl IntoIterator<Item = LookupRequest<'a>>,
) -> Result<Vec<usize>> {
    context.check_process()?;
    let checked = requests.into_iter().enumerate().map(|(at, request)| {
        let table = request.table;
        check_store(context, table).and_then(|()| Lookup::new(request)).map_err(in_request(at, table))
    });
    Ok(lookup_all(context, checked.collect::<Result<_>>()?)?.into_vec())
}

/// Applies gradients to several tables of a store, all or nothing.
pub(crate) fn apply_gradients_many<'a>(
    context: &Arc<Context>,
    requests: impl IntoIterator<Item = GradientRequest<'a>>,
    update: &Update,
) -> Result<()> {
    context.check_writable()?;
    let checked = requests.into_iter().enumerate().map(|(at, request)| {
        check_store(context, request.table).and_then(|()| Gradients::new(request)).map_err(in_request(at, request.table))
    });
    apply_all(context, checked.collect::<Result<_>>()?, update)
}

fn check_store(context: &Arc<Context>, table: &Table) -> Result<()> {
    if Arc::ptr_eq(context, &table.inner.context) { Ok(()) } else { Err(Error::OtherStore) }
}

fn in_request(request: usize, table: &Table) -> impl FnOnce(Error) -> Error {
    move |source| Error::InRequest { request, table: table.name(), source: Box::new(source) }
}

/// A lookup whose arguments are good.
pub(super) struct Lookup<'a> {
    table: &'a TableInner,
    schema: Arc<TableSchema>,
    wanted: Wanted<'a>,
    out: &'a mut [f32],
}

enum Wanted<'a> {
    Rows(&'a [Key]),
    Bags(Bags<'a>),
}

impl<'a> Lookup<'a> {
    pub(super) fn new(LookupRequest { table, keys, bags, out }: LookupRequest<'a>) -> Result<Lookup<'a>> {
        table.inner.check()?;
        let schema = table.inner.schema();
        let wanted = match bags {
            None => {
                check_length("out", keys.len().saturating_mul(schema.dim()), out.len(), keys.len())?;
                Wanted::Rows(keys)
            }
            Some((offsets, pooling)) => {
                let bags = Bags::new(keys, offsets, pooling)?;
                bags.check_length("out", schema.dim(), out.len())?;
                Wanted::Bags(bags)
            }
        };
        Ok(Lookup { table: &table.inner, schema, wanted, out })
    }

    fn keys(&self) -> usize {
        match &self.wanted {
            Wanted::Rows(keys) => keys.len(),
            Wanted::Bags(bags) => bags.keys.len(),
        }
    }
}

/// What of a lookup one thread does at a time.
enum Piece<'a> {
    Rows(&'a [Key], &'a mut [f32]),
    Bags(Pooling, BagPart<'a>),
}

/// Does the lookups as one list of work, divided between the threads.
pub(super) fn lookup_all(context: &Context, mut lookups: Few<Lookup<'_>>) -> Result<Few<usize>> {
    let keys: usize = lookups.iter().map(Lookup::keys).sum();
    let share = share_of(context, keys);
    let mut jobs = Jobs::new();
    for (at, Lookup { table, schema, wanted, out }) in lookups.iter_mut().enumerate() {
        let (table, schema): (&TableInner, &TableSchema) = (table, schema);
        match wanted {
            Wanted::Rows(keys) => {
                let pieces = keys.chunks(share).zip(out.chunks_mut(share * schema.dim()));
                jobs.extend(pieces.map(|(keys, rows)| (at, table, schema, Piece::Rows(keys, rows))));
            }
            Wanted::Bags(bags) => {
                let pieces = bags.parts(share, schema.dim(), out).into_iter();
                jobs.extend(pieces.map(|part| (at, table, schema, Piece::Bags(bags.pooling, part))));
            }
        }
    }
    let results = run_all(context.crew.as_ref().filter(|_| keys > share), jobs, |(at, table, schema, piece)| {
        let hits = match piece {
            Piece::Rows(keys, rows) => table.lookup_part(schema, RowPart { keys, rows, found: None }),
            Piece::Bags(pooling, part) => table.lookup_bag_part(schema, pooling, part),
        };
        (at, hits)
    });
    let mut found: Few<usize> = smallvec![0; lookups.len()];
    for (at, hits) in results {
        found[at] += hits?;
    }
    for Lookup { schema, wanted, out, .. } in &mut lookups {
        if let Wanted::Bags(bags) = wanted {
            bags.divide(schema.dim(), out);
        }
    }
    Ok(found)
}

/// Gradients whose arguments are good.
pub(super) struct Gradients<'a> {
    table: &'a TableInner,
    keys: Cow<'a, [Key]>,
    grads: Cow<'a, [f32]>,
    /// The row of `grads` of each key, where it is not its own.
    places: Option<Places>,
    image_bytes: usize,
}

impl<'a> Gradients<'a> {
    pub(super) fn new(GradientRequest { table, keys, bags, grads }: GradientRequest<'a>) -> Result<Gradients<'a>> {
        let table: &TableInner = &table.inner;
        table.check()?;
        let (keys, grads, places) = match bags {
            None => (Cow::Borrowed(keys), Cow::Borrowed(grads), None),
            Some((offsets, pooling)) => {
                let dim = table.schema().dim();
                let bags = Bags::new(keys, offsets, pooling)?;
                bags.check_length("grads", dim, grads.len())?;
                let grads = bags.gradients(dim, grads);
                (bags.keys, grads, Some(bags.places))
            }
        };
        let mut gradients = Gradients { table, keys, grads, places, image_bytes: 0 };
        gradients.image_bytes = table.check_update(Op::Gradients, gradients.given())?;
        Ok(gradients)
    }

    fn given(&self) -> Given<'_> {
        let values = match &self.places {
            None => Values::of_each(&self.grads),
            Some(places) => Values::shared(&self.grads, places),
        };
        Given { keys: &self.keys, values }
    }

    /// Adds those of a later request for the same table, so that its rows make one step with all of them.
    fn append(&mut self, other: &Gradients<'_>) {
        let dim = self.table.schema().dim();
        let first = (self.grads.len() / dim) as u32;
        let own = self.places.get_or_insert_with(|| {
            let mut own = Places::empty();
            own.extend(0..self.keys.len() as u32);
            own
        });
        match &other.places {
            Some(places) => own.extend(places.iter().map(|place| first + place)),
            None => own.extend(first..first + other.keys.len() as u32),
        }
        self.keys.to_mut().extend_from_slice(&other.keys);
        self.grads.to_mut().extend_from_slice(&other.grads);
        self.image_bytes = self.image_bytes.saturating_add(other.image_bytes);
    }
}

/// Prepares all tables, then applies to all. Each table's part counts as a batch, in the order of the requests: what follows from
/// the number of a batch is as if the tables had been called one by one.
pub(super) fn apply_all(context: &Context, requests: Few<Gradients<'_>>, update: &Update) -> Result<()> {
    let mut of_tables: Few<Gradients<'_>> = Few::new();
    for request in requests {
        match of_tables.iter_mut().find(|of_table| of_table.table.id == request.table.id) {
            Some(of_table) => of_table.append(&request),
            None => of_tables.push(request),
        }
    }
    let Some(table) = of_tables.first().map(|of_table| of_table.table) else { return Ok(()) };
    let scale = update.scale_of(of_tables.iter().map(|of| (of.given().values, of.keys.len(), of.table.schema().dim())))?;
    context.captures.wait_for(of_tables.iter().map(|of_table| of_table.image_bytes).fold(0, usize::saturating_add))?;
    // Always in the order of the tables: two such calls would wait for each other otherwise.
    let mut ordered: Few<(u64, &Gradients<'_>)> = (0..).zip(&of_tables).collect();
    ordered.sort_unstable_by_key(|(_, of_table)| of_table.table.id);
    let locked: Few<_> = ordered.iter().map(|(_, of_table)| lock(&of_table.table.updates)).collect();
    let Batch { time, clock, number, .. } = table.begin(&table.schema(), Op::Gradients, update)?;
    let mut parts: Few<update::Part<'_>> = Few::new();
    for ((at, of_table), plans) in ordered.into_iter().zip(locked) {
        let schema = of_table.table.schema();
        let batch = of_table.table.begin(&schema, Op::Gradients, update)?;
        let batch = Batch { time, clock, number: number + at, scale, ..batch };
        parts.push(update::Part::new(of_table.table, schema, batch, of_table.given(), plans));
    }
    update::prepare(&mut parts)?;
    update::apply(context, &mut parts);
    Ok(())
}
