//! The header of NumPy's arrays: a Python literal, of which no more is understood than NumPy writes.
#![forbid(unsafe_code)]

use std::io::Read;
use std::path::Path;

use super::arrays::{Array, Number};
use super::refused;
use crate::error::{Error, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The longest header that is read.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// How deep a literal may nest.
const MAX_DEPTH: usize = 8;

/// What an array's elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Element {
    One(Number),
    /// Fields, one after the other without a gap: name, number, how many of it.
    Record(Vec<(String, Number, usize)>),
}

/// A header and how many bytes it had.
pub(super) struct Header {
    pub(super) element: Element,
    pub(super) shape: Vec<u64>,
    pub(super) bytes: u64,
}

impl Header {
    /// The array of plain numbers that it describes.
    pub(super) fn array(&self) -> Option<Array> {
        match self.element {
            Element::One(number) => Some(Array { number, shape: self.shape.clone() }),
            Element::Record(_) => None,
        }
    }
}

/// Reads the header at the beginning of an array.
pub(super) fn read_header(path: &Path, reader: &mut dyn Read) -> Result<Header> {
    let failed = |source| Error::Io { action: "read", path: path.to_path_buf(), source };
    let mut head = [0; 8];
    reader.read_exact(&mut head).map_err(failed)?;
    if head[..6] != *MAGIC || !(1..=3).contains(&head[6]) {
        return Err(refused(path, "it does not begin as an array of NumPy, version 1 to 3"));
    }
    let mut length = [0; 4];
    let wide = if head[6] == 1 { 2 } else { 4 };
    reader.read_exact(&mut length[..wide]).map_err(failed)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(refused(path, format!("its header has {length} bytes, at most {MAX_HEADER_BYTES} were expected")));
    }
    let mut text = vec![0; length as usize];
    reader.read_exact(&mut text).map_err(failed)?;
    let parsed = std::str::from_utf8(&text).ok().and_then(|text| parse(text.trim_end()));
    let (element, shape) = parsed.ok_or_else(|| {
        refused(path, "its header is none of an array in C order of little-endian numbers, or of records of them")
    })?;
    Ok(Header { element, shape, bytes: 8 + wide as u64 + u64::from(length) })
}

/// The header of an array of plain numbers, or of records.
pub(super) fn header(descr: &str, shape: &[u64]) -> Vec<u8> {
    let lengths: Vec<String> = shape.iter().map(|length| format!("{length},")).collect();
    let mut text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': ({}), }}", lengths.join(" "));
    while !(MAGIC.len() + 4 + text.len() + 1).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&[1, 0]);
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out
}

fn number(descr: &str) -> Option<Number> {
    Some(match descr {
        "<f2" => Number::F16,
        "<f4" => Number::F32,
        "<f8" => Number::F64,
        "|u1" | "<u1" => Number::U8,
        "<u4" => Number::U32,
        "<u8" => Number::U64,
        "<i4" => Number::I32,
        "<i8" => Number::I64,
        "|b1" => Number::Bool,
        _ => return None,
    })
}

fn parse(text: &str) -> Option<(Element, Vec<u64>)> {
    let mut parser = Parser { rest: text };
    let Literal::Dict(entries) = parser.literal(0)? else { return None };
    let get = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    if !parser.rest.trim().is_empty() || get("fortran_order") != Some(&Literal::Bool(false)) {
        return None;
    }
    let Literal::Sequence(lengths) = get("shape")? else { return None };
    let shape = lengths.iter().map(Literal::whole).collect::<Option<Vec<u64>>>()?;
    let element = match get("descr")? {
        Literal::Text(descr) => Element::One(number(descr)?),
        Literal::Sequence(fields) => Element::Record(fields.iter().map(field).collect::<Option<Vec<_>>>()?),
        _ => return None,
    };
    Some((element, shape))
}

fn field(literal: &Literal) -> Option<(String, Number, usize)> {
    let Literal::Sequence(parts) = literal else { return None };
    let (Literal::Text(name), Literal::Text(descr)) = (parts.first()?, parts.get(1)?) else { return None };
    let count = match parts.get(2) {
        None => 1,
        Some(Literal::Sequence(lengths)) if lengths.len() == 1 => lengths[0].whole()?,
        Some(_) => return None,
    };
    let count = usize::try_from(count).ok().filter(|count| (1..=super::layout::MAX_VALUES).contains(count))?;
    Some((name.clone(), number(descr)?, count))
}

#[derive(Debug, PartialEq)]
enum Literal {
    Text(String),
    Whole(u64),
    Bool(bool),
    Sequence(Vec<Literal>),
    Dict(Vec<(String, Literal)>),
}

impl Literal {
    fn whole(&self) -> Option<u64> {
        if let Literal::Whole(number) = self { Some(*number) } else { None }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start();
        let after = rest.strip_prefix(token);
        self.rest = after.unwrap_or(rest);
        after.is_some()
    }

    fn literal(&mut self, depth: usize) -> Option<Literal> {
        if depth > MAX_DEPTH {
            return None;
        }
        if self.take("{") {
            return self.entries(depth);
        }
        for (open, close) in [("(", ")"), ("[", "]")] {
            if self.take(open) {
                return self.items(close, depth);
            }
        }
        for (word, value) in [("False", false), ("True", true)] {
            if self.take(word) {
                return Some(Literal::Bool(value));
            }
        }
        for quote in ["'", "\""] {
            if self.take(quote) {
                let (text, rest) = self.rest.split_once(quote)?;
                self.rest = rest;
                return (!text.contains('\\')).then(|| Literal::Text(text.to_owned()));
            }
        }
        let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        number.parse().ok().map(Literal::Whole)
    }

    fn items(&mut self, close: &str, depth: usize) -> Option<Literal> {
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(self.literal(depth + 1)?);
            if !self.take(",") {
                return self.take(close).then_some(Literal::Sequence(items));
            }
        }
        Some(Literal::Sequence(items))
    }

    fn entries(&mut self, depth: usize) -> Option<Literal> {
        let mut entries = Vec::new();
        while !self.take("}") {
            let Literal::Text(name) = self.literal(depth + 1)? else { return None };
            if !self.take(":") {
                return None;
            }
            entries.push((name, self.literal(depth + 1)?));
            if !self.take(",") {
                return self.take("}").then_some(Literal::Dict(entries));
            }
        }
        Some(Literal::Dict(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Header> {
        read_header(Path::new("a.npy"), &mut &bytes[..])
    }

    #[test]
    fn headers_go_to_bytes_and_back() {
        for (descr, shape, element) in [
            ("'<f4'", vec![3, 64], Element::One(Number::F32)),
            ("'<u8'", vec![7], Element::One(Number::U64)),
            (
                "[('key', '<u8'), ('embedding', '<f4', (16,))]",
                vec![2],
                Element::Record(vec![("key".into(), Number::U64, 1), ("embedding".into(), Number::F32, 16)]),
            ),
        ] {
            let bytes = header(descr, &shape);
            let found = read(&bytes).unwrap();
            assert_eq!((found.element, found.shape, found.bytes), (element, shape, bytes.len() as u64));
            assert!(bytes.len().is_multiple_of(64));
        }
    }

    #[test]
    fn other_headers_are_refused() {
        let of = |text: &str| {
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
            bytes
        };
        assert!(read(&of("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2)}")).is_ok());
        for text in [
            "",
            "{",
            "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2)}",
            "{'descr': '>f4', 'fortran_order': False, 'shape': (3, 2)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 2)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': [('a', '<f4', (2, 2))], 'fortran_order': False, 'shape': (3,)}",
            "{'descr': [('a', '<f4', (99999999999,))], 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2)} x",
            &"(".repeat(2000),
        ] {
            assert!(read(&of(text)).is_err(), "{text}");
        }
        assert!(read(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").is_err());
        assert!(read(b"\x93NUMPX\x01\x00\x00\x00").is_err() && read(b"").is_err());
    }
}
