//! Cuts a byte stream into JSON documents.
//!
//! Documents may follow each other with or without white space and may arrive in any pieces. Every
//! byte is looked at once by a small scanner that only follows strings and brackets, so a large
//! request in many pieces costs no more than one in a single piece; the parser proper then sees
//! only whole documents.
//!
//! Memory is bounded by the largest document plus one read.

/// Bytes of the largest request. A configuration with every mapping that there can be has some
/// 9 MiB.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Bytes of memory that a stream keeps between two documents.
const KEPT_BYTES: usize = 128 << 10;

/// What the stream has to offer next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A whole document, white space around it removed. Not yet known to be valid JSON.
    Document(Vec<u8>),
    /// More bytes are needed.
    More,
    /// Something that can't begin a document.
    Garbage,
    /// A document of more than [`DOCUMENT_BYTES_MAX`] bytes.
    TooLarge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between documents.
    Between,
    /// Inside `depth` brackets.
    Nested { depth: usize },
    /// Inside a string within `depth` brackets.
    String { depth: usize, escaped: bool },
    /// Inside a number, `true`, `false` or `null` at the top level.
    Bare,
}

/// The scanner and the bytes that have not made a document yet.
#[derive(Debug)]
pub struct Documents {
    bytes: Vec<u8>,
    start: usize,
    scanned: usize,
    state: State,
    count: u64,
}

impl Default for Documents {
    fn default() -> Self {
        Documents { bytes: Vec::new(), start: 0, scanned: 0, state: State::Between, count: 0 }
    }
}

impl Documents {
    /// Appends what has been received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// True when the stream stands inside a document.
    pub fn is_inside(&self) -> bool {
        self.state != State::Between
    }

    /// The next document, if it is all there. A bare scalar ends where the received bytes end.
    pub fn next_document(&mut self) -> Next {
        while let Some(byte) = self.bytes.get(self.scanned).copied() {
            match self.step(byte) {
                Step::Inside => self.scanned += 1,
                Step::EndsHere => {
                    self.scanned += 1;
                    return self.cut();
                }
                Step::EndedBefore => return self.cut(),
                Step::Garbage => return Next::Garbage,
            }
            if self.scanned - self.start > DOCUMENT_BYTES_MAX {
                return Next::TooLarge;
            }
        }
        if self.state == State::Bare { self.cut() } else { Next::More }
    }

    /// Documents so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    fn cut(&mut self) -> Next {
        self.count += 1;
        let document = self.bytes[self.start..self.scanned].to_vec();
        self.start = self.scanned;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES);
            (self.start, self.scanned) = (0, 0);
        }
        self.state = State::Between;
        if document.len() > DOCUMENT_BYTES_MAX { Next::TooLarge } else { Next::Document(document) }
    }

    fn step(&mut self, byte: u8) -> Step {
        match (self.state, byte) {
            (State::Between, b' ' | b'\t' | b'\r' | b'\n') => self.start += 1,
            (State::Between, b'{' | b'[') => self.state = State::Nested { depth: 1 },
            (State::Between, b'"') => self.state = State::String { depth: 0, escaped: false },
            (State::Between, b'-' | b'0'..=b'9' | b'a'..=b'z') => self.state = State::Bare,
            (State::Between, _) => return Step::Garbage,

            (State::Nested { depth }, b'{' | b'[') => {
                self.state = State::Nested { depth: depth + 1 }
            }
            (State::Nested { depth: 1 }, b'}' | b']') => return Step::EndsHere,
            (State::Nested { depth }, b'}' | b']') => {
                self.state = State::Nested { depth: depth - 1 }
            }
            (State::Nested { depth }, b'"') => self.state = State::String { depth, escaped: false },
            (State::Nested { .. }, _) => {}

            (State::String { depth, escaped: true }, _) => {
                self.state = State::String { depth, escaped: false }
            }
            (State::String { depth, .. }, b'\\') => {
                self.state = State::String { depth, escaped: true }
            }
            (State::String { depth: 0, .. }, b'"') => return Step::EndsHere,
            (State::String { depth, .. }, b'"') => self.state = State::Nested { depth },
            (State::String { .. }, _) => {}

            (State::Bare, b' ' | b'\t' | b'\r' | b'\n' | b'{' | b'[' | b'"') => {
                return Step::EndedBefore;
            }
            (State::Bare, _) => {}
        }
        Step::Inside
    }
}

enum Step {
    Inside,
    EndsHere,
    EndedBefore,
    Garbage,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn documents(pieces: &[&[u8]]) -> Vec<String> {
        let mut documents = Documents::default();
        let mut found = Vec::new();
        for piece in pieces {
            documents.push(piece);
            while let Next::Document(document) = documents.next_document() {
                found.push(String::from_utf8(document).expect("the tests are UTF-8"));
            }
        }
        found
    }

    #[test]
    fn white_space_between_documents_is_optional() {
        let text = b" {\"a\":\"}\\\"\"}[1,{}]\n\"x\" 42 null{}";
        assert_eq!(
            documents(&[text]),
            ["{\"a\":\"}\\\"\"}", "[1,{}]", "\"x\"", "42", "null", "{}"]
        );
    }

    #[test]
    fn what_cannot_begin_a_document_is_garbage() {
        for text in ["}", "// comment", "\u{feff}{}", "\0"] {
            let mut documents = Documents::default();
            documents.push(text.as_bytes());
            assert_eq!(documents.next_document(), Next::Garbage, "{text:?}");
        }
    }

    #[test]
    fn a_large_document_leaves_no_large_memory_behind() {
        let mut documents = Documents::default();
        documents.push(format!("\"{}\" 1 ", "x".repeat(DOCUMENT_BYTES_MAX - 2)).as_bytes());
        let large = documents.next_document();
        assert!(matches!(large, Next::Document(text) if text.len() == DOCUMENT_BYTES_MAX));
        assert_eq!(documents.next_document(), Next::Document(b"1".to_vec()));
        assert_eq!(documents.next_document(), Next::More);
        documents.push(b"2");
        assert_eq!(documents.next_document(), Next::Document(b"2".to_vec()));
        assert!(documents.bytes.capacity() <= KEPT_BYTES, "{}", documents.bytes.capacity());
    }

    #[test]
    fn the_limit_is_exact() {
        for (bytes, fits) in [(DOCUMENT_BYTES_MAX, true), (DOCUMENT_BYTES_MAX + 1, false)] {
            let text = format!("\"{}\"", "x".repeat(bytes - 2));
            let mut documents = Documents::default();
            let mut last = Next::More;
            for piece in text.as_bytes().chunks(60_000) {
                documents.push(piece);
                last = documents.next_document();
            }
            assert_eq!(matches!(last, Next::Document(_)), fits);
            assert_eq!(last == Next::TooLarge, !fits);
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_documents(cuts in prop::collection::vec(0usize..60, 0..6)) {
            let text: &[u8] = b"{\"a\": [1, \"]\\\\\"]} [] {\"b\":\"\xc3\xa4{\"}\n\"s\\\"\"[[{}]]";
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&text[from..cut]);
                from = cut;
            }
            pieces.push(&text[from..]);
            prop_assert_eq!(documents(&pieces), documents(&[text]));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut documents = Documents::default();
            documents.push(&bytes);
            while let Next::Document(_) = documents.next_document() {}
        }
    }
}
