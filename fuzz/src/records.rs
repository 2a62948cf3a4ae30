//! Records of topics: what is accepted is exact, no record is lost for its neighbours, and no schema does harm.

use std::sync::LazyLock;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use watershed_serving_layer::{AvroForm, RecordWriter};
use watershed_shared::error::Error;
use watershed_shared::format::{DecodedEvents, RecordDecoder, RecordFormat, RecordSchemas, RejectedRow};

use crate::events::{COLUMNS, assert_survives};

/// A message with a field for every column.
const PROTO: &str = "syntax = \"proto3\";
    import \"google/protobuf/timestamp.proto\";
    message Place { double x = 1; repeated int64 y = 2; }
    message Event {
        int64 id = 1; optional bool flag = 2; sint32 small = 3; float single = 4; double real = 5; string price = 6;
        bytes wide = 7; string name = 8; int32 day = 9; google.protobuf.Timestamp at = 10; repeated string tags = 11;
        Place place = 12; map<string, Event> more = 13; oneof either { fixed64 a = 14; Event b = 15; }
    }";

/// The schema that sinks write the columns with.
static AVRO: LazyLock<AvroForm> = LazyLock::new(|| AvroForm::new("event", &COLUMNS).unwrap());

static DECODERS: LazyLock<[RecordDecoder; 4]> = LazyLock::new(|| {
    [RecordFormat::Json, RecordFormat::Csv, RecordFormat::Avro, RecordFormat::Protobuf].map(|format| {
        let (schema_text, message) = match format {
            RecordFormat::Avro => (Some(AVRO.text().to_owned()), None),
            RecordFormat::Protobuf => (Some(PROTO.to_owned()), Some("Event".to_owned())),
            _ => (None, None),
        };
        RecordDecoder::new(&COLUMNS, format, RecordSchemas { registry: None, schema_text, message }).unwrap()
    })
});

/// Records in one of the formats: the first byte chooses it, and each record follows its length in a byte.
pub(crate) fn records(data: &[u8]) {
    let Some((format, mut rest)) = data.split_first() else { return };
    let decoder = &DECODERS[usize::from(*format) % DECODERS.len()];
    let mut values = Vec::new();
    while let Some((length, tail)) = rest.split_first() {
        let (value, after) = tail.split_at(usize::from(*length).min(tail.len()));
        values.push(value);
        rest = after;
    }
    let together = decode(decoder, &values);
    let alone: Vec<DecodedEvents> = values.iter().map(|value| decode(decoder, &[value])).collect();
    let rejected =
        |(row, alone): (usize, &DecodedEvents)| alone.rejected.first().map(|r| RejectedRow { row, ..r.clone() });
    assert_eq!(together.rejected, alone.iter().enumerate().filter_map(rejected).collect::<Vec<_>>());
    let accepted = alone.iter().map(|alone| &alone.events);
    assert_eq!(together.events, concat_batches(&COLUMNS, accepted).unwrap());
    assert_survives(&together.events);
}

/// Decodes records without a registry, which no record makes fail.
fn decode(decoder: &RecordDecoder, values: &[&[u8]]) -> DecodedEvents {
    let decoded = decoder.decode(values).unwrap();
    assert_eq!(decoded.events.num_rows() + decoded.rejected.len(), values.len());
    decoded
}

/// Checks that events are the same after a sink has written them as Avro and a source has read them.
pub(crate) fn assert_survives_avro(events: &RecordBatch) {
    let written = RecordWriter::avro(Vec::new(), None, (AVRO.clone(), 0)).records(events).unwrap();
    let values: Vec<&[u8]> = written.iter().map(|(_, value)| &value.unwrap()[5..]).collect();
    let read = decode(&DECODERS[2], &values);
    assert_eq!(read.rejected, []);
    assert_eq!(read.events, *events);
}

/// The text of an Avro schema or, after a first byte that is odd, of a `.proto` file: refused, or records can be read with it.
pub(crate) fn schemas(data: &[u8]) {
    let Some((format, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let format = if format % 2 == 0 { RecordFormat::Avro } else { RecordFormat::Protobuf };
    let schemas = RecordSchemas { registry: None, schema_text: Some(text.to_owned()), message: None };
    match RecordDecoder::new(&COLUMNS, format, schemas) {
        Ok(decoder) => {
            let bytes = text.as_bytes();
            let values = [&[][..], &[0], &[2, 4, 0, 2], &[0; 64], &[0xFF; 16], bytes];
            drop(decode(&decoder, &values));
        }
        Err(Error::RecordSchema { .. }) => {}
        Err(other) => panic!("{format:?}: {other}"),
    }
}
