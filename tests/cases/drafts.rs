//! Builders for hellos and records.

/// A hello in parts, so that tests can break one part at a time.
#[derive(Clone)]
pub struct Draft {
    pub version: u16,
    pub random: [u8; 32],
    pub session_id: Vec<u8>,
    pub suites: Vec<u8>,
    pub compression: Vec<u8>,
    pub extensions: Vec<(u16, Vec<u8>)>,
}

/// The random of a HelloRetryRequest: the SHA-256 of that word (RFC 8446 §4.1.3).
pub const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// The server name in the hellos.
pub const NAME: &str = "contoso.azurecr.io";

/// Server name entries, each a type and a name.
pub fn names(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let entries: Vec<u8> =
        entries.iter().flat_map(|(kind, name)| [vec![*kind], vector16(name)].concat()).collect();
    vector16(&entries)
}

pub fn vector8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).unwrap()], content].concat()
}

pub fn vector16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

impl Draft {
    /// TLS 1.3 and 1.2, like a browser without ECH.
    pub fn modern() -> Self {
        let groups: Vec<u8> = [0x11ec_u16, 0x001d, 0x0017].map(u16::to_be_bytes).concat();
        let schemes: Vec<u8> = [0x0403_u16, 0x0804, 0x0401].map(u16::to_be_bytes).concat();
        let share = [vec![0, 0x1d], vector16(&[9; 32])].concat();
        Self {
            version: 0x0303,
            random: [7; 32],
            session_id: vec![8; 32],
            suites: vec![0x13, 0x01, 0x13, 0x02, 0xc0, 0x2b],
            compression: vec![0],
            extensions: vec![
                (0, names(&[(0, NAME.as_bytes())])),
                (10, vector16(&groups)),
                (13, vector16(&schemes)),
                (16, vector16(&vector8(b"h2"))),
                (43, vec![4, 3, 4, 3, 3]),
                (45, vec![1, 1]),
                (51, vector16(&share)),
            ],
        }
    }

    /// TLS 1.2 only.
    pub fn classic() -> Self {
        Self::modern().without(43).without(45).without(51).with(0xff01, &[0])
    }

    pub fn named(self, name: &str) -> Self {
        self.with(0, &names(&[(0, name.as_bytes())]))
    }

    /// Sets this extension: replaces an existing one, or appends it.
    pub fn with(mut self, kind: u16, content: &[u8]) -> Self {
        match self.extensions.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, old)) => *old = content.to_vec(),
            None => self.extensions.push((kind, content.to_vec())),
        }
        self
    }

    pub fn twice(mut self, kind: u16, content: &[u8]) -> Self {
        self.extensions.push((kind, content.to_vec()));
        self
    }

    pub fn without(mut self, kind: u16) -> Self {
        self.extensions.retain(|(other, _)| *other != kind);
        self
    }

    /// A pre_shared_key of one identity, as the last extension.
    pub fn resuming(self) -> Self {
        let identity = [vector16(&[5; 180]), vec![0, 0, 1, 2]].concat();
        let content = [vector16(&identity), vector16(&vector8(&[6; 32]))].concat();
        self.with(41, &content)
    }

    /// The bytes before the extensions.
    pub fn beginning(&self) -> Vec<u8> {
        [
            self.version.to_be_bytes().to_vec(),
            self.random.to_vec(),
            vector8(&self.session_id),
            vector16(&self.suites),
            vector8(&self.compression),
        ]
        .concat()
    }

    pub fn block(&self) -> Vec<u8> {
        let each = |(kind, content): &(u16, Vec<u8>)| {
            [kind.to_be_bytes().to_vec(), vector16(content)].concat()
        };
        self.extensions.iter().flat_map(each).collect()
    }

    pub fn body(&self) -> Vec<u8> {
        [self.beginning(), vector16(&self.block())].concat()
    }

    pub fn message(&self) -> Vec<u8> {
        message(1, &self.body())
    }

    /// Splits it into records of the maximum size.
    pub fn records(&self) -> Vec<u8> {
        records(&self.message(), 1 << 14)
    }
}

pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

pub fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3], &*vector16(payload)].concat()
}

/// Splits a handshake message into records of `size` bytes.
pub fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|payload| record(22, payload)).collect()
}

/// A ServerHello in parts.
#[derive(Clone)]
pub struct Answer {
    pub version: u16,
    pub random: [u8; 32],
    pub session_id: Vec<u8>,
    pub suite: u16,
    pub compression: u8,
    pub extensions: Vec<(u16, Vec<u8>)>,
}

impl Answer {
    pub fn tls13() -> Self {
        Self {
            version: 0x0303,
            random: [3; 32],
            session_id: vec![8; 32],
            suite: 0x1301,
            compression: 0,
            extensions: vec![(43, vec![3, 4]), (51, [vec![0, 0x1d], vector16(&[9; 32])].concat())],
        }
    }

    pub fn tls12() -> Self {
        Self {
            session_id: vec![4; 32],
            suite: 0xc02b,
            extensions: vec![(0xff01, vec![0]), (23, vec![])],
            ..Self::tls13()
        }
    }

    pub fn retry() -> Self {
        Self {
            random: RETRY,
            extensions: vec![(43, vec![3, 4]), (51, vec![0, 0x17])],
            ..Self::tls13()
        }
    }

    pub fn message(&self) -> Vec<u8> {
        let each = |(kind, content): &(u16, Vec<u8>)| {
            [kind.to_be_bytes().to_vec(), vector16(content)].concat()
        };
        let block: Vec<u8> = self.extensions.iter().flat_map(each).collect();
        let body = [
            self.version.to_be_bytes().to_vec(),
            self.random.to_vec(),
            vector8(&self.session_id),
            self.suite.to_be_bytes().to_vec(),
            vec![self.compression],
            if block.is_empty() { vec![] } else { vector16(&block) },
        ];
        message(2, &body.concat())
    }

    pub fn record(&self) -> Vec<u8> {
        record(22, &self.message())
    }
}
