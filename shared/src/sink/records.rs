//! Records on their way to a topic.

/// Keys and values of records, one after the other in one buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    bytes: Vec<u8>,
    /// Where each record's key ends, and its value.
    ends: Vec<[usize; 2]>,
    has_keys: bool,
    has_values: bool,
}

impl Records {
    /// No records yet; they will have keys, and values, or not. Records without values say that there is nothing under their
    /// keys any more.
    pub fn new(has_keys: bool, has_values: bool) -> Records {
        Records { bytes: Vec::new(), ends: Vec::new(), has_keys, has_values }
    }

    /// Adds a record whose key and value are what the functions append.
    pub fn push(&mut self, key: impl FnOnce(&mut Vec<u8>), value: impl FnOnce(&mut Vec<u8>)) {
        if self.has_keys {
            key(&mut self.bytes);
        }
        let key_end = self.bytes.len();
        if self.has_values {
            value(&mut self.bytes);
        }
        self.ends.push([key_end, self.bytes.len()]);
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Key and value of each record, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&[u8]>, Option<&[u8]>)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|[_, end]| *end));
        starts.zip(&self.ends).map(|(start, &[key_end, end])| {
            let part = |has: bool, from: usize, to: usize| self.bytes.get(from..to).filter(|_| has);
            (part(self.has_keys, start, key_end), part(self.has_values, key_end, end))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_added() {
        let mut records = Records::new(true, true);
        records.push(|out| out.extend(b"a"), |out| out.extend(b"first"));
        records.push(|_| {}, |out| out.extend(b"second"));
        let all: Vec<_> = records.iter().collect();
        assert_eq!(all, [(Some(&b"a"[..]), Some(&b"first"[..])), (Some(&b""[..]), Some(&b"second"[..]))]);
        let mut gone = Records::new(true, false);
        gone.push(|out| out.extend(b"a"), |out| out.extend(b"never"));
        assert_eq!(gone.iter().collect::<Vec<_>>(), [(Some(&b"a"[..]), None)]);
        assert!(Records::new(false, true).is_empty() && gone.len() == 1);
    }
}
