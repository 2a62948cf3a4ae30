//! Opens what is ingested: files and standard input, compressed or not, in a format that is named or recognized.

use std::fs::{File, Metadata};
use std::io::{self, Cursor, ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use flate2::read::MultiGzDecoder;

use super::chunk::{Chunk, Limits, Mark};
use super::parquet::ParquetChunks;
use super::text::{TextChunks, TextFormat};

/// How much of an input's start is looked at to recognize its format.
const HEAD_BYTES: usize = 64 * 1024;
/// How long rows that have arrived wait for more before they are sent anyway: `tail -f events.ndjson | watershed ingest`.
const STREAM_PATIENCE: Duration = Duration::from_millis(500);

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const PARQUET_MAGIC: &[u8] = b"PAR1";

/// How rows are written in an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A JSON object in each line
    Ndjson,
    /// A header line, then a record in each line; quoted values may hold line ends
    Csv,
    /// Apache Parquet
    Parquet,
    /// One array of objects, or objects one after the other
    Json,
}

/// Something that can be ingested.
#[derive(Debug)]
pub(super) enum Input {
    /// Standard input, or a path that is no regular file: can be read once, from its beginning.
    Stream(PathBuf),
    /// A file, by its canonical path.
    File(PathBuf, Metadata),
}

impl Input {
    /// Finds what `path` names; `-` is standard input.
    ///
    /// # Errors
    /// When there is nothing, or nothing that can be read as rows.
    pub(super) fn find(path: &Path) -> Result<Input> {
        if path == Path::new("-") {
            return Ok(Input::Stream(path.to_owned()));
        }
        let cannot_read = || format!("cannot read \"{}\"", path.display());
        let metadata = std::fs::metadata(path).with_context(cannot_read)?;
        if metadata.is_dir() {
            bail!("\"{0}\" is a folder; name its files, for instance {0}/*.ndjson", path.display());
        }
        if !metadata.is_file() {
            return Ok(Input::Stream(path.to_owned()));
        }
        // Found out now rather than after the files before it have been sent.
        File::open(path).with_context(cannot_read)?;
        Ok(Input::File(path.canonicalize().with_context(cannot_read)?, metadata))
    }

    /// How the input is called in messages.
    pub(super) fn name(&self) -> String {
        match self {
            Input::Stream(path) if path == Path::new("-") => "standard input".to_owned(),
            Input::Stream(path) | Input::File(path, _) => path.display().to_string(),
        }
    }

    /// Size in bytes as stored, if it is known.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Input::Stream(_) => None,
            Input::File(_, metadata) => Some(metadata.len()),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Input::Stream(path) | Input::File(path, _) => path,
        }
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Input::Stream(path) if path == Path::new("-") => Box::new(PatientReader::new(io::stdin())),
            Input::Stream(path) => Box::new(PatientReader::new(File::open(path)?)),
            Input::File(path, _) => Box::new(File::open(path)?),
        })
    }
}

/// An input being read.
pub(super) struct Reading {
    chunks: Chunks,
    /// Size of the input as stored, and how much of it has been read so far.
    size: Option<u64>,
    read: Arc<AtomicU64>,
}

enum Chunks {
    Text(Box<TextChunks<Box<dyn Read + Send>>>),
    Parquet(Box<ParquetChunks>),
}

/// Whether an input is still what it was when its first part was sent.
pub(super) enum Resumed {
    /// Ready to go on behind that part.
    Ready(Reading),
    /// What was sent is no longer what the input holds there.
    Changed,
}

impl Reading {
    /// Opens an input at its beginning.
    ///
    /// # Errors
    /// When it cannot be read, or its format is neither named nor recognized.
    pub(super) fn start(input: &Input, format: Option<Format>, limits: Limits) -> Result<Reading> {
        match Reading::open(input, format, limits, None, None)? {
            Resumed::Ready(reading) => Ok(reading),
            Resumed::Changed => bail!("\"{}\" changed while it was opened", input.name()),
        }
    }

    /// Opens an input behind a place that an earlier reading reached.
    pub(super) fn resume(input: &Input, format: Option<Format>, limits: Limits, mark: Mark) -> Result<Resumed> {
        Reading::open(input, format, limits, Some(mark), None)
    }

    /// The chunk that an earlier reading cut from `start` to `end`, whatever has come behind it since; `None` when the
    /// input is not what it was up to there.
    pub(super) fn chunk_between(
        input: &Input,
        format: Option<Format>,
        start: Mark,
        end: Mark,
    ) -> Result<Option<Chunk>> {
        let limits = Limits { rows: end.rows.saturating_sub(start.rows), bytes: usize::MAX };
        // Before the first row there is a header or nothing, and a mark of neither.
        let start = (start.rows > 0).then_some(start);
        match Reading::open(input, format, limits, start, Some(end))? {
            Resumed::Ready(mut reading) => Ok(reading.next_chunk()?.filter(|chunk| chunk.end == end)),
            Resumed::Changed => Ok(None),
        }
    }

    /// The next rows; `None` when there are no more.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        match &mut self.chunks {
            Chunks::Text(text) => text.next_chunk(),
            Chunks::Parquet(parquet) => {
                let chunk = parquet.next_chunk()?;
                if let Some(size) = self.size {
                    self.read.store((size as f64 * parquet.part_read()) as u64, Ordering::Relaxed);
                }
                Ok(chunk)
            }
        }
    }

    /// How many bytes of the input as stored have been read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    fn open(
        input: &Input,
        format: Option<Format>,
        limits: Limits,
        mark: Option<Mark>,
        end: Option<Mark>,
    ) -> Result<Resumed> {
        let cannot_read = || format!("cannot read \"{}\"", input.name());
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted { reader: input.open().with_context(cannot_read)?, count: Arc::clone(&read) };
        let Decoded { mut reader, compressed } = decode(counted).with_context(cannot_read)?;
        let head = take_head(&mut reader, HEAD_BYTES).with_context(cannot_read)?;
        let format = recognize(input, format, &head)?;
        let whole = Cursor::new(head).chain(reader);
        let chunks = match format {
            Recognized::Text(format) => {
                let reader: Box<dyn Read + Send> = match end {
                    // A last line without an end, which was a row then, may have grown.
                    Some(end) if format.rows_may_end_with_the_text() => Box::new(whole.take(end.bytes)),
                    _ => Box::new(whole),
                };
                let mut text = TextChunks::new(reader, format, limits)?;
                if let Some(mark) = mark
                    && !text.skip_to(mark)?
                {
                    return Ok(Resumed::Changed);
                }
                Chunks::Text(Box::new(text))
            }
            Recognized::Parquet => {
                if let (true, Input::File(..)) = (compressed, input) {
                    bail!("\"{}\" is a compressed Parquet file; decompress it first", input.name());
                }
                let file = match input {
                    Input::File(path, _) => File::open(path).with_context(cannot_read)?,
                    // Parquet is read from its end, so a stream must be at hand as a whole.
                    Input::Stream(_) => spool(whole).with_context(cannot_read)?,
                };
                let mark_rows = mark.map_or(0, |mark| mark.rows);
                let parquet = ParquetChunks::new(file, limits, mark_rows)?;
                if mark.is_some_and(|mark| !parquet.recognizes(mark)) {
                    return Ok(Resumed::Changed);
                }
                Chunks::Parquet(Box::new(parquet))
            }
        };
        Ok(Resumed::Ready(Reading { chunks, size: input.size(), read }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recognized {
    Text(TextFormat),
    Parquet,
}

/// Decides an input's format: by what the user says, else by its name, else by how it starts.
fn recognize(input: &Input, named: Option<Format>, head: &[u8]) -> Result<Recognized> {
    if let Some(format) = named.or_else(|| format_of_name(input.path())) {
        return Ok(match format {
            Format::Ndjson => Recognized::Text(TextFormat::Lines),
            Format::Csv => Recognized::Text(TextFormat::Csv),
            Format::Parquet => Recognized::Parquet,
            Format::Json => Recognized::Text(shape_of_json(head)),
        });
    }
    if head.starts_with(PARQUET_MAGIC) {
        return Ok(Recognized::Parquet);
    }
    match first_byte(head) {
        Some(b'{' | b'[') => Ok(Recognized::Text(shape_of_json(head))),
        None => Ok(Recognized::Text(TextFormat::Lines)),
        Some(_) => bail!("cannot tell how \"{}\" is written; say so with --format", input.name()),
    }
}

fn format_of_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "ndjson" | "jsonl" => Some(Format::Ndjson),
        "json" => Some(Format::Json),
        "csv" => Some(Format::Csv),
        "parquet" | "pq" => Some(Format::Parquet),
        _ => None,
    }
}

/// An array, values over several lines, or (as most files that are called `.json` and hold events) a value in each line.
///
/// Lines are preferred, because there a damaged row cannot hide where the next one starts.
fn shape_of_json(head: &[u8]) -> TextFormat {
    let head = head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(head).trim_ascii_start();
    if head.first() == Some(&b'[') {
        return TextFormat::Json { in_array: true };
    }
    let first_line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_cut_off = first_line.len() == head.len();
    let is_whole = serde_json::from_slice::<serde::de::IgnoredAny>(first_line).is_ok();
    if is_cut_off || is_whole { TextFormat::Lines } else { TextFormat::Json { in_array: false } }
}

fn first_byte(head: &[u8]) -> Option<u8> {
    head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(head).trim_ascii_start().first().copied()
}

struct Decoded {
    reader: Box<dyn Read + Send>,
    compressed: bool,
}

/// Decompresses what starts like something compressed, whatever its name is.
fn decode(mut reader: impl Read + Send + 'static) -> io::Result<Decoded> {
    let magic = take_head(&mut reader, ZSTD_MAGIC.len())?;
    let is_gzip = magic.starts_with(GZIP_MAGIC);
    let is_zstd = magic.starts_with(ZSTD_MAGIC);
    let whole = Cursor::new(magic).chain(reader);
    let reader: Box<dyn Read + Send> = if is_gzip {
        Box::new(MultiGzDecoder::new(Persistent(whole)))
    } else if is_zstd {
        Box::new(zstd::stream::read::Decoder::new(Persistent(whole))?)
    } else {
        Box::new(whole)
    };
    Ok(Decoded { reader, compressed: is_gzip || is_zstd })
}

/// The first bytes of a reader: as many as asked for, or fewer at its end or when a stream pauses.
fn take_head(reader: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut head = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        match reader.read(&mut head[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::TimedOut && filled > 0 => break,
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(filled);
    Ok(head)
}

fn spool(reader: impl Read) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    io::copy(&mut Persistent(reader), &mut file)?;
    file.rewind()?;
    Ok(file)
}

/// Counts the bytes that pass.
struct Counted<R> {
    reader: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads a stream on a thread of its own, so that a pause of the stream can be noticed: then `read` fails with
/// `TimedOut`, loses nothing, and can be called again.
struct PatientReader {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Cursor<Vec<u8>>,
}

impl PatientReader {
    fn new(mut stream: impl Read + Send + 'static) -> PatientReader {
        let (sender, pieces) = sync_channel(4);
        // Ends with the stream, or with the process when the stream never ends.
        std::thread::spawn(move || {
            let mut buffer = vec![0; HEAD_BYTES];
            loop {
                let piece = match stream.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => Ok(buffer[..read].to_vec()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = piece.is_err();
                if sender.send(piece).is_err() || failed {
                    return;
                }
            }
        });
        PatientReader { pieces, piece: Cursor::default() }
    }
}

impl Read for PatientReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.piece.read(buffer)?;
        if read > 0 {
            return Ok(read);
        }
        match self.pieces.recv_timeout(STREAM_PATIENCE) {
            Ok(piece) => {
                self.piece = Cursor::new(piece?);
                self.piece.read(buffer)
            }
            Err(RecvTimeoutError::Timeout) => Err(ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Ok(0),
        }
    }
}

/// Waits through pauses, for readers that take one for a failure.
struct Persistent<R>(R);

impl<R: Read> Read for Persistent<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                result => return result,
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::Write;

    use super::*;

    const LIMITS: Limits = Limits { rows: 10_000, bytes: 1 << 23 };

    fn check(name: &str, head: &str, expected: TextFormat) {
        let input = Input::Stream(PathBuf::from(name));
        let recognized = recognize(&input, None, head.as_bytes()).unwrap();
        assert_eq!(recognized, Recognized::Text(expected), "{name}: {head:?}");
    }

    #[test]
    fn formats_are_recognized_by_name_and_then_by_the_first_row() {
        check("a.ndjson", "[", TextFormat::Lines);
        check("a.JSONL.gz", "", TextFormat::Lines);
        check("b.csv.zst", "{", TextFormat::Csv);
        check("c.json", "{\"a\":1}\n{\"a\":2}\n", TextFormat::Lines);
        check("c.json", "{\"a\":1}", TextFormat::Lines);
        check("c.json", "{\n \"a\":1\n}", TextFormat::Json { in_array: false });
        check("c.json", "\u{feff} \n[{\"a\":1}]", TextFormat::Json { in_array: true });
        check("-", " [", TextFormat::Json { in_array: true });
        check("-", "{\"a\":1}\n", TextFormat::Lines);
        check("-", "", TextFormat::Lines);
    }

    #[test]
    fn unknown_format_asks_for_the_option() {
        let input = Input::Stream(PathBuf::from("events.log"));
        let error = recognize(&input, None, b"a,b\n1,2\n").unwrap_err().to_string();
        assert!(error.contains("events.log") && error.contains("--format"), "{error}");
    }

    fn rows_of(content: &[u8], name: &str) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        File::create(&path).unwrap().write_all(content).unwrap();
        let mut reading = Reading::start(&Input::find(&path)?, None, LIMITS)?;
        let mut rows = String::new();
        while let Some(chunk) = reading.next_chunk()? {
            rows += str::from_utf8(&chunk.body).unwrap();
        }
        assert_eq!(reading.bytes_read(), content.len() as u64);
        Ok(rows)
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn compressed_inputs_are_decompressed_to_their_last_member() {
        let members = [gzip("{\"a\":1}\n"), gzip("{\"a\":2}\n")].concat();
        assert_eq!(rows_of(&members, "a.ndjson.gz").unwrap(), "{\"a\":1}\n{\"a\":2}\n");
        let frames = ["{\"a\":1}\n", "{\"a\":2}\n"].map(|text| zstd::encode_all(text.as_bytes(), 1).unwrap()).concat();
        assert_eq!(rows_of(&frames, "a.ndjson").unwrap(), "{\"a\":1}\n{\"a\":2}\n", "whatever its name is");
    }

    #[test]
    fn truncated_compressed_input_is_an_error_not_an_early_end() {
        let text: String = (0..50_000).map(|row| format!("{{\"row\":{row}}}\n")).collect();
        let whole = gzip(&text);
        assert!(rows_of(&whole[..whole.len() / 2], "a.ndjson.gz").is_err());
        let whole = zstd::encode_all(text.as_bytes(), 1).unwrap();
        assert!(rows_of(&whole[..whole.len() / 2], "a.ndjson.zst").is_err());
    }

    #[test]
    fn stream_that_pauses_delivers_what_it_has() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut patient = PatientReader::new(reader);
        writer.write_all(b"{}\n").unwrap();
        let mut buffer = [0; 10];
        assert_eq!(patient.read(&mut buffer).unwrap(), 3);
        assert_eq!(patient.read(&mut buffer).unwrap_err().kind(), ErrorKind::TimedOut);
        writer.write_all(b"[]").unwrap();
        drop(writer);
        let mut rest = Vec::new();
        Persistent(patient).read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"[]");
    }

    #[test]
    fn missing_file_and_folder_are_refused_before_anything_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Input::find(&folder.path().join("no.csv")).is_err());
        let error = Input::find(folder.path()).unwrap_err().to_string();
        assert!(error.contains("*.ndjson"), "{error}");
    }
}
