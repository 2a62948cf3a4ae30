//! Random bodies, from fixed seeds: values against a model, rows against their neighbours, JSON against arrow-json.

use arrow::array::AsArray;
use arrow::datatypes::{Decimal128Type, Int64Type};

use super::EventFormat::{ArrowStream, Csv, JsonArray, NdJson};
use super::*;

/// SplitMix64: a small generator whose numbers are the same everywhere.
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(super) fn choose<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len())]
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

const COLUMNS: [&str; 11] = [
    "flag BOOLEAN",
    "small INT",
    "big BIGINT",
    "single FLOAT",
    "real DOUBLE",
    "price DECIMAL",
    "name TEXT",
    "day DATE",
    "time TIMESTAMP",
    "tags TEXT[]",
    "place STRUCT(x DOUBLE, y BIGINT[])",
];

fn decoder_of_all_types() -> EventDecoder {
    decoder(&COLUMNS)
}

/// A value of the column with this name, spelled in one of the ways that arrow-json reads exactly too.
fn random_value(random: &mut Random, name: &str) -> String {
    if random.one_in(8) {
        return "null".to_owned();
    }
    match name {
        "flag" => random.choose(&["true", "false"]).to_string(),
        "small" => (random.next() as i32).to_string(),
        "big" | "y" => match random.below(5) {
            0 => (random.next() as i64).to_string(),
            1 => format!("\"{}\"", random.next() as i64),
            2 => random.below(1000).to_string(),
            3 => format!("{}.0", random.below(1000)),
            _ => format!("{}e2", random.below(1000)),
        },
        "single" => format!("{}", f32::from_bits(random.next() as u32 & 0x7f7f_ffff)),
        "real" | "x" => format!("{:e}", f64::from_bits(random.next() & 0xffef_ffff_ffff_ffff)),
        "price" => format!("{}.{:02}", random.below(100_000_000) as i64 - 50_000_000, random.below(100)),
        "name" => random_string(random),
        "day" => format!("\"{}\"", random_day(random)),
        "time" => {
            let (day, second, fraction) = (random_day(random), random.below(60), random.below(1_000_000));
            let time = format!("{:02}:{:02}:{second:02}", random.below(24), random.below(60));
            let offset = random.choose(&["Z", "", "+00:00", "-07:30", "+14:00"]);
            match random.below(3) {
                0 => format!("\"{day}T{time}.{fraction:06}{offset}\""),
                1 => format!("\"{day} {time}{offset}\""),
                _ => format!("\"{day}\""),
            }
        }
        "tags" => random_list(random, "name"),
        _ => format!("{{\"y\":{},\"x\":{}}}", random_list(random, "y"), random_value(random, "x")),
    }
}

fn random_list(random: &mut Random, item: &str) -> String {
    let items: Vec<_> = (0..random.below(4)).map(|_| random_value(random, item)).collect();
    format!("[{}]", items.join(", "))
}

fn random_string(random: &mut Random) -> String {
    let pieces = [
        "a",
        "plain words of some length",
        "é",
        "東京",
        "😀",
        "\\n",
        "\\\"",
        "\\\\",
        "\\u00e9",
        "\\ud83d\\ude00",
        "\\/",
    ];
    format!("\"{}\"", (0..random.below(5)).map(|_| *random.choose(&pieces)).collect::<String>())
}

fn random_day(random: &mut Random) -> String {
    format!("{:04}-{:02}-{:02}", 1 + random.below(9998), 1 + random.below(12), 1 + random.below(28))
}

fn random_object(random: &mut Random) -> String {
    let mut names: Vec<&str> = COLUMNS.iter().map(|column| column.split(' ').next().unwrap()).collect();
    names.push("unknown");
    if random.one_in(2) {
        for last in (1..names.len()).rev() {
            names.swap(last, random.below(last + 1));
        }
    }
    names.retain(|_| !random.one_in(10));
    let space = random.choose(&["", " ", "  "]);
    let members: Vec<_> = names.iter().map(|n| format!("\"{n}\":{space}{}", random_value(random, n))).collect();
    format!("{{{space}{}}}", members.join(&format!("{space},")))
}

#[test]
fn what_arrow_json_reads_exactly_is_read_as_the_same_values() {
    let decoder = decoder_of_all_types();
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let lines: Vec<_> = (0..1 + random.below(30)).map(|_| random_object(&mut random)).collect();
        let body = lines.join("\n");
        let expected = wikiticker::bare_arrow_json(&decoder.columns, body.as_bytes());
        for (format, body) in [(NdJson, body), (JsonArray, format!("[{}]", lines.join(",")))] {
            let decoded = decoder.decode(format, body.as_bytes()).unwrap();
            assert_eq!(decoded.rejected, [], "seed {seed}: {body}");
            assert_eq!(decoded.events, expected, "seed {seed}: {body}");
        }
    }
}

#[test]
fn numbers_are_what_a_model_says_however_they_are_written() {
    let mut random = Random::new(1);
    let names = ["INT", "BIGINT", "DECIMAL", "WIDE_DECIMAL", "TIMESTAMP"];
    let decoders = names.map(|sql| decoder(&[&format!("a {sql}")]));
    for round in 0..20_000 {
        let digits = 1 + random.below(38) as u32;
        let magnitude = u128::from(random.next()) << 64 | u128::from(random.next());
        let mantissa = (magnitude % 10_u128.pow(digits)) as i128 * if random.one_in(2) { -1 } else { 1 };
        let exponent = random.below(12) as i32 - 6;
        let number = written(&mut random, mantissa, exponent);
        let text = if random.one_in(4) { format!("\"{number}\"") } else { number };
        let which = random.below(names.len());
        let decoded = decoder_row(&decoders[which], &text);
        let expected = match names[which] {
            "INT" => in_units(mantissa, exponent).filter(|v| i32::try_from(*v).is_ok()),
            "BIGINT" => in_units(mantissa, exponent).filter(|v| i64::try_from(*v).is_ok()),
            "DECIMAL" => in_units(mantissa, exponent + 2).filter(|v| v.unsigned_abs() < 10_u128.pow(10)),
            "WIDE_DECIMAL" => in_units(mantissa, exponent).filter(|v| v.unsigned_abs() < 10_u128.pow(38)),
            _ => {
                let microseconds = match exponent + 3 {
                    shift @ 0.. => mantissa.checked_mul(10_i128.pow(shift as u32)),
                    shift => Some(mantissa.div_euclid(10_i128.pow(-shift as u32))),
                };
                microseconds.filter(|us| (-62_135_596_800_000_000..=253_402_300_799_999_999).contains(us))
            }
        };
        assert_eq!(decoded, expected, "round {round}: {text} as {}", names[which]);
    }
}

/// The number as digits, with or without a point, zeros around it and an exponent.
fn written(random: &mut Random, mantissa: i128, exponent: i32) -> String {
    let sign = if mantissa < 0 { "-" } else { "" };
    let digits = mantissa.unsigned_abs().to_string();
    let point = random.below(digits.len()) + 1;
    let (whole, fraction) = digits.split_at(point);
    let zeros = "0".repeat(random.below(3));
    let fraction = if fraction.is_empty() && zeros.is_empty() { String::new() } else { format!(".{fraction}{zeros}") };
    let exponent = exponent + (digits.len() - point) as i32;
    let exponent = if exponent == 0 { String::new() } else { format!("{}{exponent}", random.choose(&["e", "E"])) };
    format!("{sign}{whole}{fraction}{exponent}")
}

/// `mantissa x 10^exponent`, if it is an integer of at most 38 digits.
fn in_units(mantissa: i128, exponent: i32) -> Option<i128> {
    let factor = 10_i128.pow(exponent.unsigned_abs());
    if exponent >= 0 {
        return mantissa.checked_mul(factor);
    }
    (mantissa % factor == 0).then(|| mantissa / factor)
}

/// The one value of a row as an integer, whatever its type; `None` if it was refused.
fn decoder_row(decoder: &EventDecoder, value: &str) -> Option<i128> {
    let decoded = decoder.decode(NdJson, format!("{{\"a\":{value}}}").as_bytes()).unwrap();
    let column = decoded.events.column(0);
    match column.data_type() {
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().iter().flatten().next(),
        _ => {
            let integers = arrow::compute::cast(column, &DataType::Int64).unwrap();
            integers.as_primitive::<Int64Type>().iter().flatten().map(i128::from).next()
        }
    }
}

#[test]
fn damaged_rows_change_nothing_about_the_others() {
    let decoder = decoder_of_all_types();
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let lines: Vec<Vec<u8>> = (0..1 + random.below(12)).map(|_| random_line(&mut random)).collect();
        check_independence(&decoder, NdJson, &lines, b"", b"\n", b"", seed);
        let elements: Vec<Vec<u8>> = lines
            .into_iter()
            .filter(|line| decoder.decode(JsonArray, &[b"[", line.as_slice(), b"]"].concat()).is_ok())
            .collect();
        check_independence(&decoder, JsonArray, &elements, b"[", b",", b"]", seed);
    }
}

fn random_line(random: &mut Random) -> Vec<u8> {
    let mut line = random_object(random).into_bytes();
    for _ in 0..*random.choose(&[0, 0, 1, 2, 5]) {
        let place = random.below(line.len());
        match random.below(3) {
            0 => line[place] = *random.choose(b"\"\\{}[]:,0-.eE tnu\x01\x80\xff"),
            1 => drop(line.remove(place)),
            _ => line.insert(place, *random.choose(b"\"\\{}[]:,19-.eE aN")),
        }
    }
    line
}

/// Decodes the rows together and one by one, and compares.
fn check_independence(
    decoder: &EventDecoder,
    format: EventFormat,
    lines: &[Vec<u8>],
    start: &[u8],
    separator: &[u8],
    end: &[u8],
    seed: u64,
) {
    let together = decoder.decode(format, &[start, &lines.join(separator), end].concat()).unwrap();
    let (mut accepted, mut rejected, mut row) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let alone = decoder.decode(format, &[start, line, end].concat()).unwrap();
        rejected.extend(alone.rejected.iter().map(|r| RejectedRow { row: row + r.row, ..r.clone() }));
        row += alone.events.num_rows() + alone.rejected.len();
        accepted.push(alone.events);
    }
    let accepted = arrow::compute::concat_batches(&decoder.columns, &accepted).unwrap();
    assert_eq!(together.rejected, rejected, "seed {seed}");
    assert_eq!(rows(&together.events), rows(&accepted), "seed {seed}");
}

#[test]
fn no_bytes_make_it_panic() {
    let decoder = decoder_of_all_types();
    let mut random = Random::new(3);
    for _ in 0..3000 {
        let body: Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
        let text: Vec<u8> = (0..random.below(200)).map(|_| *random.choose(b"\"\\{}[]:,01-.eE \nabig")).collect();
        for format in [NdJson, JsonArray, Csv, ArrowStream] {
            for body in [&body, &text] {
                if let Err(error) = decoder.decode(format, body) {
                    assert!(matches!(error, Error::UnreadableEvents { .. }), "{error:?}");
                }
            }
        }
    }
}
