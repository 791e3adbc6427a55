//! The watch over a TLS 1.2 upload, fed from a stream. `hello` validates the headers.
//!
//! Where bytes are copied they come in runs, which begin and end anywhere. Where they are spliced, a
//! survey reads nothing but the headers. Small records always come in runs, so that they cost no
//! system call each.

use crate::hello::{HEADER, RecordWatch};
use crate::policy::Reason;

/// Records with a smaller payload than this come in runs, in bytes.
const SMALL: usize = 4 * 1024;

/// A survey ends when it has seen this many headers more than one for each [`SMALL`] bytes.
const FREE_HEADERS: usize = 8;

/// The most bytes of a run: at first, and after runs of nothing but small records.
const RUN: (usize, usize) = (1024, 16 * 1024);

/// A [`RecordWatch`] and the bytes of the header that it waits for.
#[derive(Debug)]
pub(super) struct Watch {
    records: RecordWatch,
    header: [u8; HEADER],
    have: usize,
    /// The most bytes of the next run; `None` after a large record.
    run: Option<usize>,
    /// What was wrong with a record of the last run.
    fault: Option<Reason>,
}

impl Watch {
    pub(super) fn new(records: RecordWatch) -> Self {
        Self { records, header: [0; HEADER], have: 0, run: Some(RUN.0), fault: None }
    }

    /// Returns the number of bytes of an incomplete header.
    pub(super) fn held(&self) -> usize {
        self.have
    }

    /// Returns how many bytes to read as a run; `None` if a survey is cheaper.
    pub(super) fn next_run(&self) -> Option<usize> {
        if self.have > 0 {
            return Some(self.run.unwrap_or(SMALL));
        }
        self.run.filter(|_| self.records.payload_left() < SMALL)
    }

    /// Judges the next `length` bytes by their headers. `header_behind` skips some of them and
    /// returns the header that follows; `None` if it is incomplete, or cannot be read.
    ///
    /// Returns how many can be forwarded, from the first one on. The others must come as a run: they
    /// begin with a header that is incomplete or not accepted, or with small records. There must be
    /// no part of a header [held](Self::held).
    pub(super) fn survey(
        &mut self,
        length: usize,
        mut header_behind: impl FnMut(usize) -> Option<[u8; HEADER]>,
    ) -> usize {
        let (mut at, mut headers) = (0, 0);
        if self.have > 0 {
            return at;
        }
        while headers <= FREE_HEADERS + at / SMALL {
            let payload = self.records.payload_left().min(length - at);
            self.records.moved(payload);
            at += payload;
            if length - at < HEADER {
                break;
            }
            let Some(header) = header_behind(payload) else { break };
            if self.records.header(header).is_err() {
                break;
            }
            at += HEADER;
            headers += 1;
        }
        at
    }

    /// Consumes a run of bytes, at whatever places it begins and ends. Returns the bytes that can be
    /// forwarded. Bytes of an incomplete header wait for the next run.
    ///
    /// A record that is not accepted ends the run: see [`fault`](Self::fault).
    pub(super) fn run(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut run = Vec::with_capacity(self.have + bytes.len());
        run.extend_from_slice(self.header.get(..self.have).unwrap_or_default());
        run.extend_from_slice(bytes);
        self.have = 0;
        let (mut at, mut largest) = (0, None);
        while let Some(rest) = run.get(at..).filter(|rest| !rest.is_empty()) {
            let passing = self.records.payload_left().min(rest.len());
            if passing > 0 {
                self.records.moved(passing);
                at += passing;
                continue;
            }
            let Some(header) = rest.first_chunk() else {
                self.header.iter_mut().zip(rest).for_each(|(slot, byte)| *slot = *byte);
                self.have = rest.len();
                break;
            };
            match self.records.header(*header) {
                Ok(length) => largest = largest.max(Some(length)),
                Err(fault) => {
                    self.fault = Some(fault.reason());
                    break;
                }
            }
            at += HEADER;
        }
        let (first, most) = RUN;
        self.run = match self.run.unwrap_or(first) {
            _ if largest.is_none() => self.run,
            _ if largest >= Some(SMALL) => None,
            size if bytes.len() >= size => Some((size * 4).min(most)),
            size => Some(size),
        };
        run.truncate(at);
        run
    }

    /// Returns why the upload must end, once the bytes before have been forwarded.
    pub(super) fn fault(&self) -> Option<Reason> {
        self.fault
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One header or payload at a time, up to the first fault.
    fn one_by_one(mut bytes: &[u8]) -> (Vec<u8>, Option<Reason>) {
        let mut watch = RecordWatch::at_boundary();
        let mut passed = Vec::new();
        while let Some(header) = bytes.first_chunk() {
            let length = match watch.header(*header) {
                Ok(length) => bytes.len().min(HEADER + length),
                Err(fault) => return (passed, Some(fault.reason())),
            };
            let (record, rest) = bytes.split_at(length);
            watch.moved(record.len() - HEADER);
            passed.extend_from_slice(record);
            bytes = rest;
        }
        (passed, None)
    }

    /// Surveys a piece and passes what is accepted, and the others as a run. Returns the number of
    /// headers read.
    fn surveyed(watch: &mut Watch, piece: &[u8], passed: &mut Vec<u8>) -> usize {
        let (mut left, mut headers) = (piece, 0);
        let accepted = watch.survey(piece.len(), |skip| {
            headers += 1;
            let header = left.get(skip..)?.first_chunk().copied()?;
            left = &left[skip + HEADER..];
            Some(header)
        });
        passed.extend_from_slice(&piece[..accepted]);
        passed.extend(watch.run(&piece[accepted..]));
        headers
    }

    fn records() -> impl Strategy<Value = Vec<u8>> {
        let length =
            prop_oneof![8 => 1usize..40, 1 => 1usize..18_432, 1 => Just(0), 1 => Just(20_000)];
        let kind = prop_oneof![60 => Just(23u8), 5 => Just(21), 1 => Just(22), 1 => any::<u8>()];
        let record = (kind, length).prop_map(|(kind, length)| {
            let [high, low] = (length as u16).to_be_bytes();
            [vec![kind, 3, 3, high, low], vec![7; length]].concat()
        });
        proptest::collection::vec(record, 0..40).prop_map(|records| records.concat())
    }

    proptest! {
        /// Runs and surveys pass the same bytes as single records, with the same verdict, however
        /// they are cut and mixed.
        #[test]
        fn runs_and_surveys_are_judged_as_single_records(
            bytes in records(),
            cuts in proptest::collection::vec((1usize..60_000, any::<bool>()), 1..60),
            lost in 0usize..10,
        ) {
            let bytes = &bytes[..bytes.len().saturating_sub(lost)];
            let expected = one_by_one(bytes);
            let mut watch = Watch::new(RecordWatch::at_boundary());
            let (mut passed, mut rest, mut fault) = (Vec::new(), bytes, None);
            for (length, in_run) in cuts.into_iter().cycle() {
                if rest.is_empty() || fault.is_some() {
                    break;
                }
                let (piece, behind) = rest.split_at(length.min(rest.len()));
                rest = behind;
                if in_run {
                    passed.extend(watch.run(piece));
                } else {
                    let headers = surveyed(&mut watch, piece, &mut passed);
                    prop_assert!(headers <= FREE_HEADERS + 1 + piece.len() / SMALL);
                }
                fault = watch.fault();
                prop_assert!(watch.held() < HEADER || fault.is_some());
                prop_assert!(watch.next_run().is_none_or(|run| (RUN.0..=RUN.1).contains(&run)));
            }
            prop_assert_eq!((passed, fault), expected);
        }
    }

    #[test]
    fn runs_grow_with_small_records_and_end_with_a_large_one() {
        let small = [23, 3, 3, 0, 1, 7].repeat(4_000);
        let mut watch = Watch::new(RecordWatch::at_boundary());
        let (mut rest, mut runs) = (&small[..], Vec::new());
        while let Some(run) = watch.next_run().filter(|run| *run <= rest.len()) {
            runs.push(run);
            let (piece, behind) = rest.split_at(run);
            watch.run(piece);
            rest = behind;
        }
        assert_eq!(runs, [1024, 4096, 16_384]);
        watch.run(rest);
        assert_eq!((watch.records.payload_left(), watch.held()), (0, 0));
        watch.run(&[23, 3, 3, 0x40, 0]);
        assert_eq!((watch.records.payload_left(), watch.next_run()), (0x4000, None));
    }
}
