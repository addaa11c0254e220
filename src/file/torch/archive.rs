//! Writing a zip archive of stored records, the same bytes for the same records.
//!
//! Records go in one by one and are written through; the directory follows at the end. Times are the earliest that
//! the format has. Data begin at multiples of [`ALIGNMENT`], as PyTorch's do, so that it may map them. Where a size
//! or a place needs more than 32 bits, the fields of ZIP64 are added, and only there. (Layouts: PKWARE's APPNOTE,
//! 4.3.7, 4.3.12, 4.3.14–16 and 4.5.3.)

use std::io::{self, Write};

use flate2::Crc;

/// What the places of data are multiples of.
const ALIGNMENT: u64 = 64;

/// The id of the field that fills the space before data; PyTorch's own.
const PADDING: u16 = u16::from_le_bytes(*b"FB");

/// The id of the field with 64-bit sizes and places.
const ZIP64: u16 = 1;

/// 1980-01-01 as zip files have dates.
const DATE: u16 = (1 << 5) | 1;

/// Version 2.0 of the format, or 4.5, which has ZIP64.
const PLAIN_VERSION: u16 = 20;
const ZIP64_VERSION: u16 = 45;

/// An archive being written to a sink.
pub(super) struct Archive<W: Write> {
    sink: W,
    /// Bytes written.
    at: u64,
    records: Vec<Record>,
    /// From here on a number needs 64 bits: `u32::MAX`, and less in tests.
    wide: u64,
}

/// A record that has been written.
struct Record {
    name: String,
    crc: u32,
    len: u64,
    /// Where its header begins.
    start: u64,
}

impl<W: Write> Archive<W> {
    /// An empty archive; `sink` is empty, too.
    pub(super) fn new(sink: W) -> Self {
        Self { sink, at: 0, records: Vec::new(), wide: u32::MAX.into() }
    }

    /// Adds a record.
    pub(super) fn add(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        let mut crc = Crc::new();
        crc.update(data);
        let record = Record { name: name.to_owned(), crc: crc.sum(), len: data.len() as u64, start: self.at };
        let wide = record.len >= self.wide;

        let mut extra = Vec::new();
        if wide {
            field(&mut extra, ZIP64, &[record.len.to_le_bytes(), record.len.to_le_bytes()].concat());
        }
        const HEADER: u64 = 30;
        const FIELD: u64 = 4;
        let filled = self.at + HEADER + name.len() as u64 + extra.len() as u64 + FIELD;
        let gap = filled.next_multiple_of(ALIGNMENT) - filled;
        field(&mut extra, PADDING, &vec![b'Z'; gap as usize]);

        let mut header = b"PK\x03\x04".to_vec();
        half(&mut header, if wide { ZIP64_VERSION } else { PLAIN_VERSION });
        record.describe(&mut header, wide);
        half(&mut header, name.len() as u16);
        half(&mut header, extra.len() as u16);
        header.extend_from_slice(name.as_bytes());
        header.extend_from_slice(&extra);

        self.sink.write_all(&header)?;
        self.sink.write_all(data)?;
        self.at += header.len() as u64 + record.len;
        self.records.push(record);
        Ok(())
    }

    /// Writes the directory, and gives the sink and the archive's length back.
    pub(super) fn finish(mut self) -> io::Result<(W, u64)> {
        let start = self.at;
        for record in &self.records {
            let (long, far) = (record.len >= self.wide, record.start >= self.wide);
            let mut wide = Vec::new();
            if long {
                wide.extend_from_slice(&record.len.to_le_bytes());
                wide.extend_from_slice(&record.len.to_le_bytes());
            }
            if far {
                wide.extend_from_slice(&record.start.to_le_bytes());
            }
            let mut extra = Vec::new();
            if !wide.is_empty() {
                field(&mut extra, ZIP64, &wide);
            }
            let version = if wide.is_empty() { PLAIN_VERSION } else { ZIP64_VERSION };

            let mut entry = b"PK\x01\x02".to_vec();
            half(&mut entry, version);
            half(&mut entry, version);
            record.describe(&mut entry, long);
            half(&mut entry, record.name.len() as u16);
            half(&mut entry, extra.len() as u16);
            // No comment, the first disk, no attributes.
            entry.extend_from_slice(&[0; 2 + 2 + 2 + 4]);
            word(&mut entry, if far { u32::MAX } else { record.start as u32 });
            entry.extend_from_slice(record.name.as_bytes());
            entry.extend_from_slice(&extra);
            self.sink.write_all(&entry)?;
            self.at += entry.len() as u64;
        }

        let (count, len) = (self.records.len() as u64, self.at - start);
        let (many, wide) = (count >= u16::MAX.into(), start >= self.wide || len >= self.wide);
        let mut end = Vec::new();
        if many || wide {
            end.extend_from_slice(b"PK\x06\x06");
            long(&mut end, 44);
            half(&mut end, ZIP64_VERSION);
            half(&mut end, ZIP64_VERSION);
            // This disk, and the directory's.
            end.extend_from_slice(&[0; 4 + 4]);
            for number in [count, count, len, start] {
                long(&mut end, number);
            }
            end.extend_from_slice(b"PK\x06\x07");
            word(&mut end, 0);
            long(&mut end, self.at);
            word(&mut end, 1);
        }
        end.extend_from_slice(b"PK\x05\x06");
        end.extend_from_slice(&[0; 2 + 2]);
        for _ in 0..2 {
            half(&mut end, if many { u16::MAX } else { count as u16 });
        }
        word(&mut end, if wide { u32::MAX } else { len as u32 });
        word(&mut end, if wide { u32::MAX } else { start as u32 });
        half(&mut end, 0);
        self.sink.write_all(&end)?;
        Ok((self.sink, self.at + end.len() as u64))
    }
}

impl Record {
    /// What the record's header and its entry in the directory say alike: flags, method, time, checksum, sizes.
    fn describe(&self, out: &mut Vec<u8>, wide: bool) {
        out.extend_from_slice(&[0; 2 + 2 + 2]);
        half(out, DATE);
        word(out, self.crc);
        for _ in 0..2 {
            word(out, if wide { u32::MAX } else { self.len as u32 });
        }
    }
}

/// Appends an extra field: id, length, content.
fn field(out: &mut Vec<u8>, id: u16, content: &[u8]) {
    half(out, id);
    half(out, content.len() as u16);
    out.extend_from_slice(content);
}

fn half(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn word(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn long(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use ::zip::ZipArchive;

    use super::*;

    /// Writes records of growing lengths, and reads them by another implementation.
    fn check(records: usize, wide: u64) -> Vec<u8> {
        let mut archive = Archive { wide, ..Archive::new(Vec::new()) };
        let content = |i: usize| (0..i % 700).map(|k| (k * i) as u8).collect::<Vec<u8>>();
        for i in 0..records {
            archive.add(&format!("a/{i}"), &content(i)).unwrap();
        }
        let (bytes, len) = archive.finish().unwrap();
        assert_eq!(len, bytes.len() as u64);
        let mut zip = ZipArchive::new(Cursor::new(&bytes)).unwrap();
        assert_eq!((zip.len(), zip.has_duplicate_names()), (records, false));
        zip.validate_header_consistency().unwrap();
        for i in 0..records {
            let mut record = zip.by_name(&format!("a/{i}")).unwrap();
            assert_eq!(record.data_start().unwrap() % ALIGNMENT, 0);
            let mut read = Vec::new();
            record.read_to_end(&mut read).unwrap();
            assert!(read == content(i), "record {i}");
        }
        bytes
    }

    #[test]
    fn another_implementation_reads_it() {
        check(0, u32::MAX.into());
        assert_eq!(
            check(3, u32::MAX.into()),
            check(3, 1 << 20),
            "ZIP64 leaves no trace where it isn't needed"
        );
    }

    #[test]
    fn sizes_places_and_counts_may_need_more_bits() {
        for wide in [0, 1, 100, 5_000, 50_000] {
            check(300, wide);
        }
        check(70_000, u32::MAX.into());
    }
}
