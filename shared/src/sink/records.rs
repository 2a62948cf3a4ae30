//! Records on their way to a topic.

/// Keys and values of records, one after the other in one buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    bytes: Vec<u8>,
    /// Where each record's key ends, and its value, if it has them.
    ends: Vec<[Option<usize>; 2]>,
}

impl Records {
    /// Adds a record. Key and value are what the functions append; without a value it says that there is nothing under its
    /// key any more.
    pub fn push(&mut self, key: Option<impl FnOnce(&mut Vec<u8>)>, value: Option<impl FnOnce(&mut Vec<u8>)>) {
        let key_end = key.map(|key| {
            key(&mut self.bytes);
            self.bytes.len()
        });
        let value_end = value.map(|value| {
            value(&mut self.bytes);
            self.bytes.len()
        });
        self.ends.push([key_end, value_end]);
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
        let mut start = 0;
        self.ends.iter().map(move |[key_end, value_end]| {
            let mut part =
                |end: Option<usize>| end.and_then(|end| self.bytes.get(std::mem::replace(&mut start, end)..end));
            (part(*key_end), part(*value_end))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_added() {
        let text = |text: &'static str| Some(move |out: &mut Vec<u8>| out.extend(text.bytes()));
        let mut records = Records::default();
        assert!(records.is_empty());
        records.push(text("a"), text("first"));
        records.push(text(""), text("second"));
        records.push(text("gone"), None::<fn(&mut Vec<u8>)>);
        records.push(None::<fn(&mut Vec<u8>)>, text("alone"));
        let all: Vec<_> = records.iter().collect();
        let bytes = |text: &'static str| Some(text.as_bytes());
        let expected = [("a", "first"), ("", "second")].map(|(key, value)| (bytes(key), bytes(value)));
        assert_eq!(all[..2], expected);
        assert_eq!(all[2..], [(bytes("gone"), None), (None, bytes("alone"))]);
        assert_eq!(records.len(), 4);
    }
}
