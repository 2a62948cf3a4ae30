//! The share of records that are no events.

use super::topic::Halt;

/// Records over which the share is taken; so many must come before a few bad ones can stop a partition.
const WINDOW: u64 = 1000;

/// Counts one partition's records.
#[derive(Debug, Default)]
pub(super) struct BadRatio {
    records: u64,
    bad: u64,
}

impl BadRatio {
    /// Counts records; the reason to halt if there are too many bad ones among the last thousand or so.
    pub(super) fn count(&mut self, good: u64, bad: u64, ratio_max: f64) -> Option<Halt> {
        self.records += good + bad;
        self.bad += bad;
        let (records, bad) = (self.records, self.bad);
        // So many are too many whatever follows within the window.
        let is_too_much = bad as f64 > ratio_max * records.max(WINDOW) as f64;
        if records >= WINDOW {
            *self = BadRatio::default();
        }
        is_too_much.then_some(Halt::BadRatio { bad, records, ratio_max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bad_records_at_the_start_are_not_too_many() {
        let mut ratio = BadRatio::default();
        assert_eq!(ratio.count(0, 10, 0.01), None, "nine hundred and ninety good ones may follow");
        assert!(ratio.count(0, 1, 0.01).is_some(), "eleven of a thousand are too many, whatever follows");
    }

    #[test]
    fn the_share_is_that_of_recent_records() {
        let mut ratio = BadRatio::default();
        assert_eq!(ratio.count(1_000_000, 0, 0.01), None);
        assert_eq!(ratio.count(0, 11, 0.01), Some(Halt::BadRatio { bad: 11, records: 11, ratio_max: 0.01 }));
        let mut lenient = BadRatio::default();
        assert_eq!(lenient.count(0, 5000, 1.0), None, "1 never stops");
    }
}
