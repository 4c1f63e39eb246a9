//! The event log of a run: every line counts in its hash, and is printed where wanted.

use std::fmt;

/// The log.
#[derive(Debug)]
pub struct Log {
    hash: u64,
    lines: u64,
    print: bool,
}

impl Log {
    /// An empty log. `print`: each line goes to standard output, too.
    pub fn new(print: bool) -> Log {
        Log { hash: 0xcbf2_9ce4_8422_2325, lines: 0, print }
    }

    /// One more line.
    pub fn line(&mut self, step: u64, what: fmt::Arguments<'_>) {
        self.lines += 1;
        let mut hasher = Hasher(self.hash ^ step);
        fmt::write(&mut hasher, what).expect("hashing does not fail");
        self.hash = hasher.0;
        if self.print {
            println!("{step:>6} {what}");
        }
    }

    /// Hash of all lines, in order.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Lines so far.
    pub fn lines(&self) -> u64 {
        self.lines
    }
}

/// A word at a time: any difference shows, and nobody attacks it.
struct Hasher(u64);

impl fmt::Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let mixed = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.0 = mixed ^ (mixed >> 29);
        }
        Ok(())
    }
}

/// Adds a line to a run's log.
#[macro_export]
macro_rules! note {
    ($shared:expr, $($what:tt)*) => {
        $shared.log.line($shared.world.steps, format_args!($($what)*))
    };
}
