//! What of a schema depends on feature slots: thresholds of admission and times to live.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::part;
use crate::admission::Admission;
use crate::codec::Reader;
use crate::expiry::{Expiry, Lifetime, Lifetimes};
use crate::types::MAX_SLOT;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rules {
    /// Thresholds of feature slots in the place of the admission's own.
    pub(super) thresholds: BTreeMap<u16, u32>,
    /// Of the table and of its slots.
    pub(super) lifetimes: Lifetimes,
}

impl Rules {
    /// Says what is wrong with rules beside this admission, if anything.
    pub(super) fn validate(&self, admission: &Admission) -> Result<(), String> {
        admission.validate()?;
        for lifetime in std::iter::once(&self.lifetimes.table).chain(self.lifetimes.slots.values()) {
            lifetime.expiry.validate()?;
        }
        if let Some(slot) = self.thresholds.keys().chain(self.lifetimes.slots.keys()).find(|slot| **slot > MAX_SLOT) {
            return Err(format!("feature slot {slot} is not within 0 to {MAX_SLOT}"));
        }
        for threshold in self.thresholds.values() {
            if *admission == Admission::Always {
                return Err("thresholds of feature slots need an admission that has a threshold".into());
            }
            admission.with_threshold(*threshold).validate()?;
        }
        Ok(())
    }

    /// What the first version of a schema has no place for.
    pub(super) fn parts(&self, admission: &Admission) -> Vec<(u8, Vec<u8>)> {
        let of_slots = |values: &mut dyn Iterator<Item = (u16, u32)>| -> Vec<u8> {
            values.flat_map(|(slot, value)| [&slot.to_le_bytes()[..], &value.to_le_bytes()].concat()).collect()
        };
        let sliding = match admission {
            Admission::Sliding { window, capacity, .. } => [&window.to_le_bytes()[..], &capacity.to_le_bytes()].concat(),
            _ => Vec::new(),
        };
        let Lifetimes { table, slots } = &self.lifetimes;
        let thresholds = of_slots(&mut self.thresholds.iter().map(|(slot, threshold)| (*slot, *threshold)));
        let expiries = of_slots(&mut slots.iter().map(|(slot, lifetime)| (*slot, lifetime.expiry.encode())));
        let floor = if table.floor > 0 { table.floor.to_le_bytes().to_vec() } else { Vec::new() };
        let floors = slots.iter().filter(|(_, lifetime)| lifetime.floor > 0);
        let floors = of_slots(&mut floors.map(|(slot, lifetime)| (*slot, lifetime.floor)));
        let parts = [
            (part::SLIDING, sliding),
            (part::SLOT_THRESHOLDS, thresholds),
            (part::SLOT_EXPIRIES, expiries),
            (part::EXPIRED_BEFORE, floor),
            (part::SLOTS_EXPIRED_BEFORE, floors),
        ];
        parts.into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect()
    }

    /// Takes over a part; `None` for an unknown one or one that does not decode.
    pub(super) fn take_part(&mut self, kind: u8, reader: &mut Reader<'_>, admission: &mut Admission) -> Option<()> {
        let mut of_slots = || -> Option<BTreeMap<u16, u32>> {
            let mut values = BTreeMap::new();
            while !reader.is_empty() {
                values.insert(u16::from_le_bytes([reader.u8()?, reader.u8()?]), reader.u32()?);
            }
            Some(values)
        };
        match kind {
            part::SLIDING => {
                let Admission::Sliding { window, capacity, .. } = admission else { return None };
                (*window, *capacity) = (reader.u32()?, reader.u64()?);
            }
            part::SLOT_THRESHOLDS => self.thresholds = of_slots()?,
            part::SLOT_EXPIRIES => {
                let lifetime = |ttl| Lifetime { expiry: Expiry::decode(ttl), floor: 0 };
                self.lifetimes.slots = of_slots()?.into_iter().map(|(slot, ttl)| (slot, lifetime(ttl))).collect();
            }
            part::EXPIRED_BEFORE => self.lifetimes.table.floor = reader.u32()?,
            part::SLOTS_EXPIRED_BEFORE => {
                for (slot, floor) in of_slots()? {
                    self.lifetimes.slots.get_mut(&slot)?.floor = floor;
                }
            }
            _ => return None,
        }
        Some(())
    }
}
