//! Bytes of the trainer's state: little-endian, length-prefixed, decoded totally (damage is an error, never a panic).
#![forbid(unsafe_code)]

use crate::{Error, Result};

/// Writes values one after another.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    /// Seven bits a byte, the lowest first.
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub(crate) fn f32s(&mut self, values: &[f32]) {
        self.varint(values.len() as u64);
        for value in values {
            self.u32(value.to_bits());
        }
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.varint(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }
}

/// Reads what a [`Writer`] wrote.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| damaged("it ends too early"))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(crate) fn f64(&mut self) -> Result<f64> {
        Ok(f64::from_bits(self.u64()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take::<1>()?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged("a number is longer than 64 bits"))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str> {
        let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        let (text, rest) = self.rest.split_at_checked(length).ok_or_else(|| damaged("it ends too early"))?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| damaged("a text in it is not UTF-8"))
    }

    /// Fills `values`; their number must be the one that was written.
    pub(crate) fn f32s(&mut self, values: &mut [f32]) -> Result<()> {
        let found = self.varint()?;
        if found != values.len() as u64 {
            return Err(damaged(format!("it holds {found} weights where the model has {}", values.len())));
        }
        for value in values {
            *value = f32::from_bits(self.u32()?);
        }
        Ok(())
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left over.
    pub(crate) fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(damaged(format!("{} bytes are left over", self.rest.len()))) }
    }
}

/// The error of a state that is not what this program wrote.
pub(crate) fn damaged(what: impl Into<String>) -> Error {
    Error::TrainerState(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        for value in [0, 1, 127, 128, 300, u64::MAX] {
            writer.varint(value);
        }
        writer.f32s(&[1.5, -0.0, f32::MIN_POSITIVE]);
        writer.f64(-2.5);
        writer.text("a\nb");
        let mut reader = Reader::new(&writer.bytes);
        for value in [0, 1, 127, 128, 300, u64::MAX] {
            assert_eq!(reader.varint().unwrap(), value);
        }
        let mut floats = [0.0; 3];
        reader.f32s(&mut floats).unwrap();
        assert_eq!(floats.map(f32::to_bits), [1.5f32, -0.0, f32::MIN_POSITIVE].map(f32::to_bits));
        assert_eq!(reader.f64().unwrap(), -2.5);
        assert_eq!(reader.text().unwrap(), "a\nb");
        reader.end().unwrap();
        for cut in 0..writer.bytes.len() {
            let mut reader = Reader::new(&writer.bytes[..cut]);
            let all = (0..6).try_for_each(|_| reader.varint().map(|_| ()));
            assert!(all.and_then(|()| reader.f32s(&mut floats)).and_then(|()| reader.f64()).and_then(|_| reader.text()).is_err());
        }
        assert!(Reader::new(&[0xff; 20]).varint().is_err());
    }
}
