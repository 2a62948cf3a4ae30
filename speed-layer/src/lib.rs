//! Part of Watershed.
