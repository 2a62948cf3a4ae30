//! Walks through the bytes of an Avro record and says whether they are exactly one record of its type.
//!
//! The decoder of whole batches takes some bytes that no writer writes, such as branches that a union does not have, and
//! gives up the batch for others. So what reaches it has been walked through here, where a wrong record costs only itself
//! and the reason names the field.

use super::schema::{AvroType, Kind};
use crate::format::row::quoted;

/// Checks that `body` is one value of `record`, nothing less and nothing more.
///
/// # Errors
/// What is wrong and in which field.
pub(super) fn check(record: &AvroType, body: &[u8]) -> Result<(), String> {
    let mut bytes = Bytes { rest: body };
    bytes.value(record)?;
    match bytes.rest.len() {
        0 => Ok(()),
        left => Err(format!("{left} bytes are left behind the record; was it written with another schema?")),
    }
}

struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    /// Goes past a value. Recurses at most as deep as types are nested.
    fn value(&mut self, avro: &AvroType) -> Result<(), String> {
        match &avro.kind {
            Kind::Null => Ok(()),
            Kind::Boolean => match self.take(1)? {
                [0 | 1] => Ok(()),
                other => Err(format!("a boolean is 0 or 1, not {}", other[0])),
            },
            Kind::Int => self.int().map(drop),
            Kind::Long => self.long().map(drop),
            Kind::Float => self.take(4).map(drop),
            Kind::Double => self.take(8).map(drop),
            Kind::Bytes => self.sized().map(drop),
            Kind::String => self.string(),
            Kind::Fixed(size) => self.take(*size).map(drop),
            Kind::Enum(symbols) => self.index("symbol", symbols.len()).map(drop),
            Kind::Array(items) => self.blocks(|bytes| bytes.value(items)),
            Kind::Map(values) => self.blocks(|bytes| bytes.string().and_then(|()| bytes.value(values))),
            Kind::Union(branches) => {
                let branch = self.index("branch", branches.len())?;
                self.value(&branches[branch])
            }
            Kind::Record(fields) => fields.iter().try_for_each(|field| {
                let value = self.value(&field.field_type);
                value.map_err(|reason| format!("field {}: {reason}", quoted(&field.name)))
            }),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            let left = self.rest.len();
            return Err(format!("the record ends where {count} bytes are expected; {left} are left"));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// An integer in base 128, the lowest digit first, with the sign in the lowest bit.
    fn long(&mut self) -> Result<i64, String> {
        let mut zigzag = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                break;
            }
            zigzag |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            }
        }
        Err("an integer has more than 64 bits".to_owned())
    }

    fn int(&mut self) -> Result<i32, String> {
        let long = self.long()?;
        i32::try_from(long).map_err(|_| format!("{long} is no integer of 32 bits"))
    }

    fn index(&mut self, what: &str, count: usize) -> Result<usize, String> {
        let index = self.int()?;
        let known = usize::try_from(index).ok().filter(|index| *index < count);
        known.ok_or_else(|| format!("there is no {what} {index}, there are {count} from 0 on"))
    }

    fn sized(&mut self) -> Result<&'a [u8], String> {
        let size = self.long()?;
        let size = usize::try_from(size).map_err(|_| format!("a length is {size}"))?;
        self.take(size)
    }

    fn string(&mut self) -> Result<(), String> {
        let text = std::str::from_utf8(self.sized()?);
        text.map(drop).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))
    }

    /// Goes past the blocks of an array or a map. A negative count stands for its absolute value and has the block's
    /// size in bytes behind it.
    fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            let size = if count < 0 { Some(self.long()?) } else { None };
            let before = self.rest.len();
            let count = count.unsigned_abs();
            for _ in 0..count {
                let left = self.rest.len();
                item(self)?;
                if self.rest.len() == left {
                    // Nothing else bounds how many there are, and each asks for memory.
                    return Err(format!("a list has {count} items that take no bytes"));
                }
            }
            let found = before - self.rest.len();
            if let Some(size) = size.filter(|size| usize::try_from(*size) != Ok(found)) {
                return Err(format!("a block of {found} bytes says that it has {size}"));
            }
        }
    }
}
