//! The manifest: which runs each closed segment has.
//!
//! One line with the xxh64 of the rest in hexadecimal, then JSON.

use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;
use watershed_shared::position::{Boundary, Offset, Position};

/// Version of the manifest and of the files that it names. Others are not read: the view is computed again.
const FORMAT_VERSION: u32 = 1;

/// What one checkpoint holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format_version: u32,
    /// Closed, in order, each starting where the one before ends.
    pub(super) segments: Vec<StoredSegment>,
}

/// A closed segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredSegment {
    #[serde(with = "offsets")]
    pub(super) start: Position,
    #[serde(with = "offsets")]
    pub(super) end: Position,
    pub(super) runs: Vec<StoredRun>,
}

/// A run's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredRun {
    pub(super) id: u64,
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// xxh64 of each part of `PART_BYTES` of the file.
    pub(super) checksums: Vec<u64>,
}

impl Manifest {
    pub(super) fn new(segments: Vec<StoredSegment>) -> Manifest {
        Manifest { format_version: FORMAT_VERSION, segments }
    }

    /// What is left from `boundary` on; nothing when a segment straddles it or none starts there.
    pub(super) fn starting_at(mut self, boundary: &Boundary) -> Manifest {
        self.segments.retain(|segment| !boundary.0.covers(&segment.end));
        let mut next = &boundary.0;
        for segment in &self.segments {
            if !(segment.start.covers(next) && next.covers(&segment.start)) {
                return Manifest::new(Vec::new());
            }
            next = &segment.end;
        }
        self
    }

    /// Whether nothing lies from `boundary` on, or something that starts there and has no gaps.
    pub(super) fn fits(&self, boundary: &Boundary) -> bool {
        let is_below = self.segments.iter().all(|segment| boundary.0.covers(&segment.end));
        is_below || !self.clone().starting_at(boundary).segments.is_empty()
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers only: they always have a JSON form.
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{:016x}\n{json}\n", XxHash64::oneshot(0, json.as_bytes())).into_bytes()
    }

    /// # Errors
    /// What is wrong with the bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Manifest, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let (stored, json) = text.split_once('\n').ok_or("it has no checksum line")?;
        let json = json.strip_suffix('\n').ok_or("it is cut")?;
        let computed = format!("{:016x}", XxHash64::oneshot(0, json.as_bytes()));
        if stored != computed {
            return Err(format!("its checksum is {computed}, but {stored} was stored with it"));
        }
        let manifest: Manifest = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if manifest.format_version != FORMAT_VERSION {
            return Err(format!(
                "its format version is {}; this build reads {FORMAT_VERSION}",
                manifest.format_version
            ));
        }
        Ok(manifest)
    }
}

/// A position as the array of its offsets.
mod offsets {
    use serde::{Deserializer, Serializer};

    use super::{Deserialize, Offset, Position};

    pub(super) fn serialize<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(position.offsets().iter().map(|offset| offset.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
        Ok(Position::new(Vec::<u64>::deserialize(deserializer)?.into_iter().map(Offset).collect()))
    }
}
