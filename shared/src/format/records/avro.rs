//! Reads Avro records with the schema that each was written with.
//!
//! Records pass in four steps. Each is checked byte by byte against its schema (`body`), so that a wrong one is refused
//! alone. Those of one schema are decoded together into an Arrow batch, whose types the schema's spelling for the
//! decoder has chosen (`bridge`). Its columns are found by name and converted as those of Arrow streams are. Rows of
//! several schemas are put back into the order in which they came.

mod body;
mod bridge;
mod schema;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::SchemaRef;
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};

use self::schema::{AvroType, SchemaReader};
use super::RecordFormat;
use super::framing::{BySchemaId, Judged, references, split_header};
use crate::error::{Error, Result};
use crate::format::DecodedEvents;
use crate::format::arrow_stream::Matching;
use crate::format::plan::ObjectPlan;
use crate::format::row::Refusal;
use crate::panics::catch_panic;
use crate::registry::{RegisteredSchema, SchemaRegistry, SchemaType};

/// Most bytes of records that are decoded together. The decoder's texts have 32-bit offsets, and names of enums are
/// longer than what they are sent as.
const BATCH_BYTES_MAX: usize = 32 << 20;
/// What stands in front of each record for the decoder: the Confluent header of id 0. It has one schema only.
const FRAME: [u8; 5] = [0; 5];
/// What single-object encoding begins with; the schema's fingerprint follows.
const SINGLE_OBJECT_MAGIC: [u8; 2] = [0xC3, 0x01];

/// Where the schemas of records come from.
#[derive(Debug)]
pub(super) enum AvroRecords {
    Registry(BySchemaId<WriterSchema>),
    File {
        schema: Arc<WriterSchema>,
        /// What a record in single-object encoding begins with.
        single_object: Option<[u8; 10]>,
    },
}

/// A schema that records were written with, ready for the source's columns.
#[derive(Debug)]
pub(super) struct WriterSchema {
    record: Arc<AvroType>,
    store: SchemaStore,
}

/// The sound records of one schema.
struct Group<'a> {
    schema: Arc<WriterSchema>,
    records: Vec<Record<'a>>,
}

/// A record without what stands in front of it.
#[derive(Clone, Copy)]
struct Record<'a> {
    row: usize,
    body: &'a [u8],
}

/// Converted rows, and which records they are.
struct Piece {
    rows: Vec<usize>,
    arrays: Vec<ArrayRef>,
}

/// What has become of the records so far.
#[derive(Default)]
struct Outcome {
    pieces: Vec<Piece>,
    refused: BTreeMap<usize, Refusal>,
}

impl AvroRecords {
    pub(super) fn with_registry(registry: Arc<SchemaRegistry>) -> AvroRecords {
        AvroRecords::Registry(BySchemaId::new(registry, SchemaType::Avro))
    }

    /// # Errors
    /// The text is no schema that records of this source could be written with.
    pub(super) fn with_schema(text: &str, plan: &ObjectPlan) -> Result<AvroRecords, String> {
        let record = SchemaReader::default().read(text)?;
        let schema = WriterSchema::new(record, plan).map_err(|refusal| refusal.of_row(0));
        let schema = schema.map_err(|refused| match refused.column {
            Some(column) => format!("column \"{column}\": {}", refused.reason),
            None => refused.reason,
        })?;
        let fingerprint = AvroSchema::new(text.to_owned()).fingerprint(FingerprintAlgorithm::Rabin);
        let single_object = match fingerprint {
            Ok(Fingerprint::Rabin(fingerprint)) => {
                let mut magic = [0; 10];
                magic[..2].copy_from_slice(&SINGLE_OBJECT_MAGIC);
                magic[2..].copy_from_slice(&fingerprint.to_le_bytes());
                Some(magic)
            }
            _ => None,
        };
        Ok(AvroRecords::File { schema: Arc::new(schema), single_object })
    }

    pub(super) fn decode(&self, values: &[&[u8]], plan: &ObjectPlan, columns: &SchemaRef) -> Result<DecodedEvents> {
        let mut outcome = Outcome::default();
        for group in self.sort(values, plan, &mut outcome)? {
            for records in pieces_of(&group.records) {
                group.schema.decode(records, plan, &mut outcome);
            }
        }
        let events = in_order(outcome.pieces, columns)?;
        let rejected = outcome.refused.into_iter().map(|(row, refusal)| refusal.of_row(row)).collect();
        Ok(DecodedEvents { events, rejected })
    }

    /// The records by their schemas. Those that are wrong by themselves are refused.
    fn sort<'a>(&self, values: &[&'a [u8]], plan: &ObjectPlan, outcome: &mut Outcome) -> Result<Vec<Group<'a>>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        let mut group_of_id: HashMap<u32, Result<usize, Refusal>> = HashMap::new();
        for (row, value) in values.iter().enumerate() {
            let split = match self {
                AvroRecords::Registry(_) => split_header(value),
                AvroRecords::File { single_object, .. } => {
                    let prefix = single_object.as_ref().map_or(&[][..], |magic| magic.as_slice());
                    Ok((0, value.strip_prefix(prefix).unwrap_or(value)))
                }
            };
            let (id, body) = match split {
                Ok(split) => split,
                Err(refusal) => {
                    outcome.refused.insert(row, refusal);
                    continue;
                }
            };
            let group = match group_of_id.get(&id) {
                Some(group) => group.clone(),
                None => {
                    let group = self.schema(id, plan)?.map(|schema| {
                        groups.push(Group { schema, records: Vec::new() });
                        groups.len() - 1
                    });
                    group_of_id.insert(id, group.clone());
                    group
                }
            };
            let sorted = group.and_then(|group| {
                let group = &mut groups[group];
                body::check(&group.schema.record, body).map_err(Refusal::new)?;
                group.records.push(Record { row, body });
                Ok(())
            });
            if let Err(refusal) = sorted {
                outcome.refused.insert(row, refusal);
            }
        }
        Ok(groups)
    }

    fn schema(&self, id: u32, plan: &ObjectPlan) -> Judged<Arc<WriterSchema>> {
        match self {
            AvroRecords::Registry(by_id) => by_id.get(id, |registry, schema| registered(registry, id, schema, plan)),
            AvroRecords::File { schema, .. } => Ok(Ok(Arc::clone(schema))),
        }
    }
}

/// The schema that the registry has under `id`, or why no record of it can be an event of this source.
fn registered(
    registry: &SchemaRegistry,
    id: u32,
    schema: &RegisteredSchema,
    plan: &ObjectPlan,
) -> Judged<WriterSchema> {
    let references = match references(registry, schema)? {
        Ok(references) => references,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut reader = SchemaReader::default();
    let record = references.iter().try_for_each(|referenced| reader.read(&referenced.text).map(drop));
    let record = record.and_then(|()| reader.read(&schema.text));
    let record =
        record.map_err(|reason| Refusal::new(format!("the Avro schema with id {id} cannot be used: {reason}")));
    Ok(record.and_then(|record| WriterSchema::new(record, plan)))
}

impl WriterSchema {
    /// # Errors
    /// Columns can never come from it, or the decoder does not take it.
    fn new(record: Arc<AvroType>, plan: &ObjectPlan) -> Result<WriterSchema, Refusal> {
        let spelled = AvroSchema::new(bridge::spell(&record, plan)?);
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        let schema = catch_panic(|| {
            store.set(Fingerprint::Id(0), spelled)?;
            let decoder = ReaderBuilder::new().with_writer_schema_store(store.clone()).build_decoder()?;
            Ok::<_, arrow::error::ArrowError>(decoder.schema())
        });
        let schema = schema.and_then(|schema| schema.map_err(|error| error.to_string()));
        // Types that never fit a column show without any row.
        let fits = |schema: SchemaRef| Matching::new(&schema, plan)?.convert(RecordBatch::new_empty(schema)).map(drop);
        schema.and_then(fits).map_err(|reason| Refusal::new(format!("its Avro schema cannot be used: {reason}")))?;
        Ok(WriterSchema { record, store })
    }

    /// Decodes records that have been checked. What the decoder still gives up is halved until it is one record.
    fn decode(&self, records: &[Record<'_>], plan: &ObjectPlan, outcome: &mut Outcome) {
        let decoded = catch_panic(|| {
            let batch = self.decode_batch(records)?;
            Matching::new(&batch.schema(), plan)?.convert(batch)
        });
        match (decoded.and_then(|decoded| decoded), records) {
            (Ok((arrays, refused)), _) => {
                let kept = records.iter().enumerate().filter(|(index, _)| !refused.contains_key(index));
                let rows = kept.map(|(_, record)| record.row).collect();
                outcome.pieces.push(Piece { rows, arrays });
                outcome.refused.extend(refused.into_iter().map(|(index, refusal)| (records[index].row, refusal)));
            }
            (Err(reason), [record]) => drop(outcome.refused.insert(record.row, Refusal::new(reason))),
            (Err(_), records) => {
                let (first, second) = records.split_at(records.len() / 2);
                self.decode(first, plan, outcome);
                self.decode(second, plan, outcome);
            }
        }
    }

    /// The records as a batch of one row each. A decoder that has failed is in no known state, so each batch has its own;
    /// it takes microseconds to make.
    fn decode_batch(&self, records: &[Record<'_>]) -> Result<RecordBatch, String> {
        let bytes: usize = records.iter().map(|record| FRAME.len() + record.body.len()).sum();
        let mut framed = Vec::with_capacity(bytes + 1);
        for record in records {
            framed.extend_from_slice(&FRAME);
            framed.extend_from_slice(record.body);
        }
        // The decoder does not begin a record at the end of its input, not even one of no bytes. This begins another.
        framed.push(FRAME[0]);
        let builder = ReaderBuilder::new().with_batch_size(records.len() + 1);
        let decoder = builder.with_writer_schema_store(self.store.clone()).build_decoder();
        let mut decoder = decoder.map_err(|error| error.to_string())?;
        let consumed = decoder.decode(&framed).map_err(|error| error.to_string())?;
        let batch = decoder.flush().map_err(|error| error.to_string())?;
        match batch.filter(|batch| consumed == bytes && batch.num_rows() == records.len()) {
            Some(batch) => Ok(batch),
            None => Err("the decoder does not read the record's bytes as its schema says".to_owned()),
        }
    }
}

/// The records in pieces of which each is decoded at once.
fn pieces_of<'a, 'b>(records: &'a [Record<'b>]) -> impl Iterator<Item = &'a [Record<'b>]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |record: &&Record<'_>| {
            bytes += record.body.len();
            bytes <= BATCH_BYTES_MAX
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (piece, after) = rest.split_at(count);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The rows of all pieces in the order of their records.
fn in_order(pieces: Vec<Piece>, columns: &SchemaRef) -> Result<RecordBatch> {
    if let [piece] = pieces.as_slice() {
        return Ok(RecordBatch::try_new(Arc::clone(columns), piece.arrays.clone())?);
    }
    let mut places: Vec<(usize, usize, usize)> = Vec::new();
    for (number, piece) in pieces.iter().enumerate() {
        places.extend(piece.rows.iter().enumerate().map(|(index, row)| (*row, number, index)));
    }
    if places.is_empty() {
        return Ok(RecordBatch::new_empty(Arc::clone(columns)));
    }
    places.sort_unstable();
    let places: Vec<(usize, usize)> = places.into_iter().map(|(_, number, index)| (number, index)).collect();
    let interleaved = |column: usize| {
        let arrays: Vec<&dyn Array> = pieces.iter().map(|piece| piece.arrays[column].as_ref()).collect();
        interleave(&arrays, &places)
    };
    // Arrow panics when texts taken together are longer than 2 GiB.
    let arrays = catch_panic(|| (0..columns.fields().len()).map(interleaved).collect::<Result<Vec<_>, _>>());
    let unreadable = |reason| Error::UnreadableEvents { format: RecordFormat::Avro.name(), reason };
    Ok(RecordBatch::try_new(Arc::clone(columns), arrays.map_err(unreadable)??)?)
}
