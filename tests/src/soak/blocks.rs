//! What each block of a device may hold.
//!
//! Every write puts a value into its blocks that nobody else writes (zeros aside), so a block that
//! is read names the write it saw. A write is a *candidate* from when it is sent until it is
//! certain that it was overwritten: a read may return any candidate that was not gone when the read
//! was sent. That is what linearizability of a block asks for, except that the order which one read
//! has shown is held against another only where their times tell.
//!
//! For a crash a candidate lives on until a flush or a forced write makes a later one durable.

/// The word that fills a block; 0 for zeros.
pub type Value = u64;

/// Bytes of a block.
pub const BLOCK: usize = 512;

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It has happened.
    Yes,
    /// It has not.
    No,
    /// Who knows; but if it has not happened by now, it won't.
    Maybe,
}

/// A write that a block may show. Times are numbers in the order of what the initiators did.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    value: Value,
    sent: u64,
    ended: Option<u64>,
    /// Overwritten for reads that are sent later.
    gone: Option<u64>,
    /// Not even a crash brings it back.
    buried: bool,
    /// A read has seen it.
    seen: bool,
}

/// The blocks of one device.
#[derive(Debug)]
pub struct Blocks {
    blocks: Vec<Vec<Candidate>>,
}

/// A block that is not what it may be.
#[derive(Debug)]
pub struct Wrong {
    /// The block.
    pub lba: u64,
    /// Its first word.
    pub found: Value,
    /// What it may hold.
    pub allowed: Vec<Value>,
}

/// The word of a write's own, for a block; `None`: the same word in all blocks of the write.
pub fn word(lba: Option<u64>, serial: u64) -> Value {
    match lba {
        Some(lba) => (lba + 1) << 40 | serial,
        None => 1 << 63 | serial,
    }
}

/// Fills a block.
pub fn fill(value: Value, block: &mut [u8]) {
    block.as_chunks_mut().0.iter_mut().for_each(|chunk| *chunk = value.to_be_bytes());
}

/// The word of a block that holds one word throughout.
fn word_of(block: &[u8]) -> Option<Value> {
    let chunks = block.as_chunks::<8>().0;
    let first = chunks.first()?;
    chunks.iter().all(|chunk| chunk == first).then(|| u64::from_be_bytes(*first))
}

impl Blocks {
    /// All zeros.
    pub fn new(count: u64) -> Blocks {
        let (value, sent, ended) = (0, 0, Some(0));
        let zeros = Candidate { value, sent, ended, gone: None, buried: false, seen: true };
        Blocks { blocks: vec![vec![zeros]; count as usize] }
    }

    fn range(&mut self, lba: u64, count: u64) -> &mut [Vec<Candidate>] {
        &mut self.blocks[lba as usize..(lba + count) as usize]
    }

    /// A write is sent. `serial`: see [`word`]; 0 writes zeros. Nothing older than `oldest` is in
    /// flight.
    pub fn begin(
        &mut self,
        lba: u64,
        count: u64,
        value: impl Fn(u64) -> Value,
        sent: u64,
        oldest: u64,
    ) {
        for (at, block) in self.range(lba, count).iter_mut().enumerate() {
            block.retain(|c| !c.buried || c.gone.is_none_or(|gone| gone > oldest));
            let value = value(lba + at as u64);
            let (ended, gone) = (None, None);
            block.push(Candidate { value, sent, ended, gone, buried: false, seen: false });
        }
    }

    /// A write that was sent at `sent` has ended. `durable`: what it wrote survives a crash.
    pub fn end(&mut self, lba: u64, count: u64, sent: u64, done: Done, durable: bool, now: u64) {
        for block in self.range(lba, count) {
            let Some(at) = block.iter().position(|c| c.sent == sent) else { continue };
            match done {
                Done::No => {
                    // Zeros name no write.
                    let seen = block[at].seen && block[at].value != 0;
                    assert!(!seen, "a write that failed was read: {:x?}", block[at]);
                    block.remove(at);
                    continue;
                }
                Done::Maybe => {
                    block[at].ended.get_or_insert(now);
                    continue;
                }
                Done::Yes => block[at].ended = Some(now),
            }
            for c in block.iter_mut().filter(|c| c.ended.is_some_and(|ended| ended < sent)) {
                c.gone.get_or_insert(now);
                c.buried |= durable;
            }
        }
    }

    /// Blocks that were read by a command sent at `sent` are what they may be. `each` is told of
    /// blocks that might have held several values, and says of a wrong one whether that is known.
    pub fn check(
        &mut self,
        lba: u64,
        bytes: &[u8],
        sent: u64,
        now: u64,
        mut each: impl FnMut(Result<(), u64>) -> bool,
    ) -> Result<(), Wrong> {
        for (at, bytes) in bytes.chunks(BLOCK).enumerate() {
            let number = lba + at as u64;
            let block = &mut self.blocks[number as usize];
            let found = word_of(bytes);
            let hit = |c: &&mut Candidate| {
                Some(c.value) == found && c.gone.is_none_or(|gone| gone > sent)
            };
            let Some(hit) = block.iter_mut().find(hit) else {
                if each(Err(number)) {
                    continue;
                }
                let allowed = allowed(block, sent).collect();
                return Err(Wrong { lba: number, found: found.unwrap_or(!0), allowed });
            };
            hit.seen = true;
            let value = hit.value;
            if allowed(block, sent).count() > 1 {
                each(Ok(()));
            }
            for c in block.iter_mut() {
                if c.value != value && c.ended.is_some_and(|ended| ended < sent) {
                    c.gone.get_or_insert(now);
                }
            }
        }
        Ok(())
    }

    /// A command sent at `sent` may find this value in a block.
    pub fn may_be(&self, lba: u64, value: Value, sent: u64) -> bool {
        allowed(&self.blocks[lba as usize], sent).any(|other| other == value)
    }

    /// It may find another one.
    pub fn may_differ(&self, lba: u64, value: Value, sent: u64) -> bool {
        allowed(&self.blocks[lba as usize], sent).any(|other| other != value)
    }

    /// A value that a command sent at `sent` might find.
    pub fn guess(&self, lba: u64, sent: u64) -> Value {
        allowed(&self.blocks[lba as usize], sent).last().expect("a block holds something")
    }

    /// A flush sent at `sent` has ended: what was overwritten before it won't come back.
    pub fn flushed(&mut self, sent: u64) {
        for c in self.blocks.iter_mut().flatten() {
            c.buried |= c.gone.is_some_and(|gone| gone < sent);
        }
    }

    /// The device has lost what was not durable.
    pub fn crashed(&mut self, now: u64) {
        for block in &mut self.blocks {
            block.retain(|c| !c.buried);
            for c in block {
                c.ended.get_or_insert(now);
                c.gone = None;
            }
        }
    }

    /// The newest value whose write has ended well, if one is certain.
    pub fn certain(&self, lba: u64) -> Option<Value> {
        let mut left = self.blocks[lba as usize].iter().filter(|c| c.gone.is_none());
        let first = left.next()?;
        (left.next().is_none() && first.ended.is_some()).then_some(first.value)
    }
}

fn allowed(block: &[Candidate], sent: u64) -> impl Iterator<Item = Value> {
    let open = move |c: &&Candidate| c.gone.is_none_or(|gone| gone > sent);
    block.iter().filter(open).map(|c| c.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(value: Value) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        fill(value, &mut bytes);
        bytes
    }

    fn reads(blocks: &mut Blocks, value: Value, sent: u64, now: u64) -> bool {
        blocks.check(0, &block(value), sent, now, |_| false).is_ok()
    }

    /// Writes of 1 and 2, one after the other.
    fn two() -> Blocks {
        let mut blocks = Blocks::new(1);
        for (value, sent) in [(1, 10), (2, 20)] {
            blocks.begin(0, 1, |_| value, sent, 0);
            blocks.end(0, 1, sent, Done::Yes, false, sent + 5);
        }
        blocks
    }

    #[test]
    fn a_read_sees_what_was_not_overwritten_when_it_was_sent() {
        let mut blocks = two();
        assert!(!reads(&mut blocks, 0, 30, 31));
        assert!(!reads(&mut blocks, 1, 30, 31));
        assert!(reads(&mut blocks, 1, 24, 31), "write 2 had not been answered");
        assert!(reads(&mut blocks, 2, 30, 31));
    }

    #[test]
    fn what_one_read_has_shown_the_next_one_does_not_undo() {
        let mut blocks = two();
        blocks.begin(0, 1, |_| 3, 30, 0);
        assert!(reads(&mut blocks, 2, 31, 32));
        assert!(reads(&mut blocks, 3, 33, 34));
        assert!(!reads(&mut blocks, 2, 35, 36));
    }

    #[test]
    fn a_crash_undoes_what_was_not_flushed_and_nothing_else() {
        let mut blocks = two();
        blocks.crashed(40);
        assert!([0, 1, 2].iter().all(|value| blocks.may_be(0, *value, 41)));
        assert!(reads(&mut blocks, 1, 41, 42));
        assert!(!reads(&mut blocks, 2, 43, 44));

        let mut blocks = two();
        blocks.flushed(30);
        blocks.crashed(40);
        assert!(!reads(&mut blocks, 1, 41, 42));
        assert!(reads(&mut blocks, 2, 41, 42));
    }

    #[test]
    fn an_aborted_write_is_decided_by_the_first_read() {
        let mut blocks = two();
        blocks.begin(0, 1, |_| 3, 30, 0);
        blocks.end(0, 1, 30, Done::Maybe, false, 35);
        assert!(blocks.may_differ(0, 3, 40) && blocks.may_be(0, 3, 40));
        assert!(reads(&mut blocks, 2, 40, 41));
        assert!(!reads(&mut blocks, 3, 42, 43));
    }
}
