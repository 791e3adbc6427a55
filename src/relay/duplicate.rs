//! Reads the record headers of what a pipe holds, and copies nothing else. tee(2) fills a second pipe
//! with the same pages; splice(2) moves what need not be read from there to /dev/null. So what is
//! judged is what goes out, and a record costs two cheap system calls.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::{SpliceFlags, splice, tee};

use crate::hello::HEADER;

/// An empty second pipe, as large as the first.
#[derive(Debug)]
pub(super) struct Duplicate {
    source: OwnedFd,
    sink: OwnedFd,
    null: Arc<File>,
    held: usize,
}

impl Duplicate {
    /// Takes the two ends of a pipe, and /dev/null, open for writing.
    pub(super) fn new((source, sink): (OwnedFd, OwnedFd), null: Arc<File>) -> Self {
        Self { source, sink, null, held: 0 }
    }

    /// Fills it with at most `length` bytes of the pipe `original`, which keeps them. Returns their
    /// number.
    pub(super) fn fill(&mut self, original: &OwnedFd, length: usize) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "it is filled only when it is empty");
        self.held = tee(original, &self.sink, length, SpliceFlags::NONBLOCK)?;
        Ok(self.held)
    }

    /// Returns the header behind the next `skip` bytes; `None` if it does not hold all of it.
    pub(super) fn header_behind(&mut self, skip: usize) -> io::Result<Option<[u8; HEADER]>> {
        if self.held < skip + HEADER {
            return Ok(None);
        }
        self.discard(skip)?;
        let mut header = [0; HEADER];
        let read = rustix::io::read(&self.source, &mut header)?;
        self.held = self.held.saturating_sub(read);
        Ok((read == HEADER).then_some(header))
    }

    /// Discards all that it holds. After an error it must not be used again.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        self.discard(self.held)
    }

    fn discard(&mut self, mut length: usize) -> io::Result<()> {
        while length > 0 {
            let flags = SpliceFlags::NONBLOCK;
            match splice(&self.source, None, &*self.null, None, length, flags)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                gone => {
                    length = length.saturating_sub(gone);
                    self.held = self.held.saturating_sub(gone);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn it_shows_headers_and_takes_nothing_from_the_original() {
        let ends = || pipe_with(PipeFlags::NONBLOCK).unwrap();
        let (source, sink) = ends();
        let null = Arc::new(File::options().write(true).open("/dev/null").unwrap());
        let mut duplicate = Duplicate::new(ends(), null);
        let bytes: Vec<u8> = (0..=255).cycle().take(20_000).collect();
        rustix::io::write(&sink, &bytes).unwrap();
        for _ in 0..3 {
            assert_eq!(duplicate.fill(&source, 19_999).unwrap(), 19_999);
            assert_eq!(duplicate.header_behind(0).unwrap(), Some([0, 1, 2, 3, 4]));
            assert_eq!(duplicate.header_behind(10_001).unwrap(), Some([22, 23, 24, 25, 26]));
            assert_eq!(duplicate.header_behind(19_999 - 10_011 - 4).unwrap(), None);
            duplicate.empty().unwrap();
            assert_eq!(duplicate.header_behind(0).unwrap(), None);
        }
        let mut left = vec![0; 30_000];
        assert_eq!(rustix::io::read(&source, &mut left).unwrap(), bytes.len());
        assert!(left.starts_with(&bytes));
    }
}
