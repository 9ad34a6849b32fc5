//! The IDENTITY file: which store this is. Two copies, written once.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::codec::{Reader, crc};
use crate::error::{Error, Result};
use crate::fs::{self, Fs, names};

const MAGIC: &[u8; 8] = b"EMBROCK\0";
/// The version of everything on disk.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Bytes of one copy: magic, version, uuid, seed, crc.
const COPY_BYTES: usize = 8 + 4 + 16 + 8 + 4;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uuid: [u8; 16],
    /// Seeds initial values and admission draws, for the life of the store.
    pub(crate) seed: u64,
}

impl Identity {
    /// A new identity; the uuid is hashed from the time, the process and the place.
    pub(crate) fn generate(dir: &Path, seed: u64) -> Identity {
        let mut hasher = blake3::Hasher::new();
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        hasher.update(&nanos.to_le_bytes());
        hasher.update(&std::process::id().to_le_bytes());
        hasher.update(dir.as_os_str().as_encoded_bytes());
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Identity { uuid, seed }
    }

    fn encode(&self) -> Vec<u8> {
        let mut copy = MAGIC.to_vec();
        copy.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        copy.extend_from_slice(&self.uuid);
        copy.extend_from_slice(&self.seed.to_le_bytes());
        let sum = crc(0, &copy);
        copy.extend_from_slice(&sum.to_le_bytes());
        copy.repeat(2)
    }

    /// Writes the file, durably.
    pub(crate) fn write(&self, fs: &dyn Fs, dir: &Path) -> Result<()> {
        fs::write_atomic(fs, &names::identity(dir), &self.encode())
    }

    /// Reads the first sound copy.
    pub(crate) fn read(fs: &dyn Fs, dir: &Path) -> Result<Identity> {
        let path = names::identity(dir);
        let bytes = fs::read_all(fs, &path, 4096)?;
        let first = Self::decode(&path, &bytes, 0);
        first.or_else(|error| Self::decode(&path, &bytes, COPY_BYTES).map_err(|_| Self::newer(&path, &bytes).unwrap_or(error)))
    }

    /// A newer version may have copies of another length, so that nothing but the magic and the version can be read.
    fn newer(path: &Path, bytes: &[u8]) -> Option<Error> {
        let mut reader = Reader::new(bytes.strip_prefix(MAGIC.as_slice())?);
        let found = reader.u32().filter(|version| *version > FORMAT_VERSION)?;
        Some(Error::FormatTooNew { path: path.to_path_buf(), found, supported: FORMAT_VERSION })
    }

    /// The damage of each copy, for `verify`.
    pub(crate) fn check(fs: &dyn Fs, dir: &Path) -> Result<Vec<Error>> {
        let path = names::identity(dir);
        let bytes = fs::read_all(fs, &path, 4096)?;
        let mut damage: Vec<Error> = [0, COPY_BYTES].iter().filter_map(|&at| Self::decode(&path, &bytes, at).err()).collect();
        if let (2, Some(newer)) = (damage.len(), Self::newer(&path, &bytes)) {
            return Err(newer);
        }
        if bytes.len() > 2 * COPY_BYTES {
            damage.push(Error::corrupt(&path, 2 * COPY_BYTES as u64, "bytes after the second copy"));
        }
        Ok(damage)
    }

    fn decode(path: &Path, bytes: &[u8], at: usize) -> Result<Identity> {
        let damaged = |what: &str| Error::corrupt(path, at as u64, what);
        let copy = bytes.get(at..at + COPY_BYTES).ok_or_else(|| damaged("the file is too short"))?;
        let (body, sum) = copy.split_at(COPY_BYTES - 4);
        if body.get(..8) != Some(MAGIC.as_slice()) {
            return Err(damaged("not the identity of a store"));
        }
        if sum != crc(0, body).to_le_bytes() {
            return Err(damaged("this copy's checksum does not match"));
        }
        let mut reader = Reader::new(&body[8..]);
        let version = reader.u32().unwrap_or(0);
        if version > FORMAT_VERSION {
            return Err(Error::FormatTooNew { path: path.to_path_buf(), found: version, supported: FORMAT_VERSION });
        }
        if version < FORMAT_VERSION {
            return Err(damaged(&format!("format version {version}, which no program wrote")));
        }
        let (Some(uuid), Some(seed)) = (reader.bytes(16), reader.u64()) else { return Err(damaged("too short")) };
        let mut identity = Identity { uuid: [0; 16], seed };
        identity.uuid.copy_from_slice(uuid);
        Ok(identity)
    }
}
