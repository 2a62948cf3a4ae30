//! The place of a record's message in its schema, which stands between the schema's id and the message.

use std::borrow::Cow;

use prost_reflect::{FileDescriptor, MessageDescriptor};

use crate::format::row::Refusal;

/// Deepest nesting of messages that is looked for.
const DEPTH_MAX: usize = 32;

/// The index of a message in its file, then of one that is declared in that one, and so on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct MessageIndexes {
    indexes: Cow<'static, [u32]>,
}

impl MessageIndexes {
    /// Reads the indexes in front of a message: their number and each of them, as integers of Avro's kind. A single 0
    /// stands for the first message of the file, which most records are.
    pub(super) fn split(bytes: &[u8]) -> Result<(MessageIndexes, &[u8]), Refusal> {
        if let [0, body @ ..] = bytes {
            return Ok((MessageIndexes { indexes: Cow::Borrowed(&[0]) }, body));
        }
        let wrong = || Refusal::new("there is no place of a message behind the schema id; is the record Protobuf?");
        let (count, mut rest) = index(bytes).ok_or_else(wrong)?;
        if count as usize > DEPTH_MAX {
            return Err(wrong());
        }
        let mut indexes = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (index, after) = index(rest).ok_or_else(wrong)?;
            indexes.push(index);
            rest = after;
        }
        Ok((MessageIndexes { indexes: Cow::Owned(indexes) }, rest))
    }

    /// The message at this place. The entries of maps are messages too, which most clients count and some do not: a place
    /// that names different messages then is refused.
    pub(super) fn message_of(&self, file: &FileDescriptor) -> Result<MessageDescriptor, Refusal> {
        let mut message: Option<MessageDescriptor> = None;
        for index in self.indexes.as_ref() {
            let index = *index as usize;
            let next = match &message {
                None => file.messages().nth(index),
                Some(message) => {
                    let declared = message.child_messages().filter(|child| !child.is_map_entry()).nth(index);
                    let counted = message.child_messages().nth(index);
                    if declared.is_some() && declared != counted {
                        let (place, name) = (&self.indexes, message.full_name());
                        return Err(Refusal::new(format!(
                            "the place {place:?} that the record names depends on whether the entries of maps in {name} \
                             count, in which clients differ; declare maps behind the messages in it"
                        )));
                    }
                    declared
                }
            };
            message = Some(next.ok_or_else(|| {
                Refusal::new(format!("its schema has no message at the place {:?} that the record names", self.indexes))
            })?);
        }
        message.ok_or_else(|| Refusal::new("the record names no message of its schema"))
    }
}

/// A number that is not negative, and what comes after it.
fn index(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut zigzag = 0_u64;
    for (place, byte) in bytes.iter().enumerate().take(5) {
        zigzag |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let is_negative = zigzag & 1 == 1;
            let index = u32::try_from(zigzag >> 1).ok().filter(|_| !is_negative)?;
            return Some((index, &bytes[place + 1..]));
        }
    }
    None
}
