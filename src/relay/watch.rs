//! The watch over a TLS 1.2 upload, fed from a stream: the incomplete header, and the number of
//! payload bytes until the next one. `hello` validates the headers.
//!
//! Headers are read one by one, or with the records around them: a run. Small records come in runs,
//! so that they cost no system call each.

use crate::hello::{HEADER, RecordWatch, UploadFault};
use crate::policy::Reason;

/// Records with a smaller payload than this come in runs, in bytes.
const SMALL: usize = 4 * 1024;

/// The most bytes of a run: at first, and after runs of nothing but small records.
const RUN: (usize, usize) = (1024, 16 * 1024);

/// A [`RecordWatch`] and the bytes of the header that it waits for.
#[derive(Debug)]
pub(super) struct Watch {
    records: RecordWatch,
    header: [u8; HEADER],
    have: usize,
    /// Whether no payload followed the last header yet.
    fresh: bool,
    /// The most bytes of the next run; `None` after a large record.
    run: Option<usize>,
    /// What was wrong with a record of the last run.
    fault: Option<Reason>,
}

impl Watch {
    pub(super) fn new(records: RecordWatch) -> Self {
        let run = Some(RUN.0);
        Self { records, header: [0; HEADER], have: 0, fresh: false, run, fault: None }
    }

    /// Returns the number of payload bytes that can be forwarded; zero when a header is due.
    pub(super) fn passing(&self) -> usize {
        self.records.payload_left()
    }

    /// Returns whether a header was just accepted and its payload follows.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Records that `count` payload bytes were forwarded.
    pub(super) fn passed(&mut self, count: usize) {
        self.records.moved(count);
        self.fresh = false;
    }

    /// Returns the number of bytes of an incomplete header.
    pub(super) fn held(&self) -> usize {
        self.have
    }

    /// Returns the number of missing header bytes.
    pub(super) fn missing(&self) -> usize {
        HEADER - self.have
    }

    /// Consumes the next header bytes, at most [`missing`](Self::missing). Returns the header once
    /// it is complete and accepted.
    pub(super) fn header(&mut self, bytes: &[u8]) -> Result<Option<[u8; HEADER]>, Reason> {
        for (slot, byte) in self.header.iter_mut().skip(self.have).zip(bytes) {
            *slot = *byte;
        }
        self.have = (self.have + bytes.len()).min(HEADER);
        if self.have < HEADER {
            return Ok(None);
        }
        let length = self.records.header(self.header).map_err(UploadFault::reason)?;
        self.have = 0;
        self.fresh = true;
        self.run = (length < SMALL).then_some(RUN.0);
        Ok(Some(self.header))
    }

    /// Returns how many bytes to read as a run, if records are small.
    pub(super) fn next_run(&self) -> Option<usize> {
        self.run.filter(|_| self.passing() < SMALL)
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
        self.fresh = false;
        let (mut at, mut largest) = (0, 0);
        while let Some(rest) = run.get(at..).filter(|rest| !rest.is_empty()) {
            let passing = self.passing().min(rest.len());
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
                Ok(length) => largest = largest.max(length),
                Err(fault) => {
                    self.fault = Some(fault.reason());
                    break;
                }
            }
            at += HEADER;
        }
        let (first, most) = RUN;
        self.run = match self.run.unwrap_or(first) {
            _ if largest >= SMALL => None,
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

    /// One header or payload at a time, as long as there is no fault.
    fn one_by_one(mut bytes: &[u8]) -> (Vec<u8>, Option<Reason>) {
        let mut watch = Watch::new(RecordWatch::at_boundary());
        let mut passed = Vec::new();
        while !bytes.is_empty() {
            if watch.passing() > 0 {
                let (payload, rest) = bytes.split_at(watch.passing().min(bytes.len()));
                watch.passed(payload.len());
                passed.extend_from_slice(payload);
                bytes = rest;
                continue;
            }
            let (header, rest) = bytes.split_at(watch.missing().min(bytes.len()));
            bytes = rest;
            match watch.header(header) {
                Ok(header) => passed.extend(header.into_iter().flatten()),
                Err(reason) => return (passed, Some(reason)),
            }
        }
        (passed, None)
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
        /// Runs pass the same bytes as single records, with the same verdict, however they are cut
        /// and mixed with single steps.
        #[test]
        fn runs_are_judged_as_single_records(
            bytes in records(),
            cuts in proptest::collection::vec((1usize..3_000, any::<bool>()), 1..60),
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
                let most = match (in_run, watch.passing()) {
                    (true, _) => length,
                    (false, 0) => watch.missing().min(length),
                    (false, left) => left.min(length),
                };
                let (piece, behind) = rest.split_at(most.min(rest.len()));
                rest = behind;
                if in_run {
                    passed.extend(watch.run(piece));
                    fault = watch.fault();
                } else if watch.passing() > 0 {
                    watch.passed(piece.len());
                    passed.extend_from_slice(piece);
                } else {
                    match watch.header(piece) {
                        Ok(header) => passed.extend(header.into_iter().flatten()),
                        Err(reason) => fault = Some(reason),
                    }
                }
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
        assert_eq!((watch.passing(), watch.held()), (0, 0));
        watch.run(&[23, 3, 3, 0x40, 0]);
        assert_eq!((watch.passing(), watch.next_run()), (0x4000, None));
    }
}
