//! What of a schema a serving copy keeps.
#![forbid(unsafe_code)]

use super::{Missing, TableSchema};
use crate::admission::Admission;
use crate::precision::Precision;
use crate::segments::Segment;

impl TableSchema {
    /// The same table without what only training needs: no optimizer state, every key admitted.
    pub(crate) fn for_serving(&self) -> TableSchema {
        let mut serving = self.clone();
        serving.segments.iter_mut().for_each(|segment| segment.optimizer = Segment::new(1).optimizer);
        serving.admission = Admission::always();
        serving
    }

    /// As [`TableSchema::for_serving`], with each embedding in `lanes` lanes that mean nothing to a table.
    pub(crate) fn for_encoded(&self, lanes: usize) -> TableSchema {
        let (dim, segments) = (lanes, vec![Segment::new(lanes)]);
        TableSchema { dim, segments, missing: Missing::Zeros, precision: Precision::F32, ..self.for_serving() }
    }
}
