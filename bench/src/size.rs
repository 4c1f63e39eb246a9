//! Sizes and lists as people write them: `4k`, `1M`, `512-64k`, `0,2-4`.

use std::fmt;
use std::str::FromStr;

/// What is wrong with a size, list or address on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError(String);

impl ParseError {
    /// An error that shows `text` and says what was expected.
    pub fn new(text: &str, expected: &str) -> Self {
        ParseError(format!("'{text}': {expected}"))
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

/// Bytes: a number with an optional binary suffix k, m, g or t in either case.
pub fn parse_bytes(text: &str) -> Result<u64, ParseError> {
    let wrong = || ParseError::new(text, "a size like 512, 4k or 1M is needed");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(wrong()),
    };
    // `parse` alone would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// The sizes of a load's commands, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sizes {
    /// One of these, each as likely as the others.
    List(Vec<u32>),
    /// Any multiple of the block size from `min` to `max`.
    Range {
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
    },
}

impl Sizes {
    /// Smallest size in bytes.
    pub fn min(&self) -> u32 {
        match self {
            Sizes::List(sizes) => sizes.iter().copied().min().unwrap_or(0),
            Sizes::Range { min, .. } => *min,
        }
    }

    /// Largest size in bytes.
    pub fn max(&self) -> u32 {
        match self {
            Sizes::List(sizes) => sizes.iter().copied().max().unwrap_or(0),
            Sizes::Range { max, .. } => *max,
        }
    }

    /// The only size, if there is only one.
    pub fn single(&self) -> Option<u32> {
        (self.min() == self.max()).then(|| self.max())
    }

    /// True when every size is a whole number of blocks.
    pub fn fit(&self, block_bytes: u32) -> bool {
        match self {
            Sizes::List(sizes) => sizes.iter().all(|size| size % block_bytes == 0),
            Sizes::Range { min, max } => min % block_bytes == 0 && max % block_bytes == 0,
        }
    }
}

impl FromStr for Sizes {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let size = |part: &str| {
            let bytes = parse_bytes(part.trim())?;
            u32::try_from(bytes)
                .ok()
                .filter(|bytes| (1..=1 << 30).contains(bytes))
                .ok_or_else(|| ParseError::new(part, "from 1 byte to 1 GiB"))
        };
        if let Some((min, max)) = text.split_once('-') {
            let (min, max) = (size(min)?, size(max)?);
            if min > max {
                return Err(ParseError::new(text, "the smaller size comes first"));
            }
            return Ok(Sizes::Range { min, max });
        }
        Ok(Sizes::List(text.split(',').map(size).collect::<Result<_, _>>()?))
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Range { min, max } => write!(f, "{}-{}", Bytes(*min), Bytes(*max)),
            Sizes::List(sizes) => {
                for (index, size) in sizes.iter().enumerate() {
                    write!(f, "{}{}", if index > 0 { "," } else { "" }, Bytes(*size))?;
                }
                Ok(())
            }
        }
    }
}

/// A size in its shortest exact form: 4k, 1m, 1536.
struct Bytes(u32);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes > 0 && bytes % (1 << 20) == 0 => write!(f, "{}m", bytes >> 20),
            bytes if bytes > 0 && bytes % (1 << 10) == 0 => write!(f, "{}k", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

/// Logical unit numbers: `0,2-4`, in the order given, each once, at most 16383.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luns(pub Vec<u16>);

impl FromStr for Luns {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(text, "LUNs like 0,2-4 are needed, each once, up to 16383");
        let number = |part: &str| {
            part.trim().parse::<u16>().ok().filter(|lun| *lun <= 16383).ok_or_else(wrong)
        };
        let mut luns = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            for lun in number(first)?..=number(last)? {
                if luns.contains(&lun) {
                    return Err(wrong());
                }
                luns.push(lun);
            }
        }
        if luns.is_empty() { Err(wrong()) } else { Ok(Luns(luns)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_suffixes() {
        for (text, bytes) in
            [("512", 512), ("4k", 4096), ("128K", 131_072), ("1M", 1 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "4x", "-1", "+1", "4 k", "1.5m", "99999999999999999999", "16777216t"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_one_some_or_a_range() {
        assert_eq!("4k".parse(), Ok(Sizes::List(vec![4096])));
        assert_eq!("4k,64k".parse(), Ok(Sizes::List(vec![4096, 65536])));
        assert_eq!("512-1m".parse(), Ok(Sizes::Range { min: 512, max: 1 << 20 }));
        for text in ["", "0", "4k,", "1m-512", "512-", "2g"] {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
        for text in ["4k", "512,4k,1536", "512-1m"] {
            assert_eq!(text.parse::<Sizes>().unwrap().to_string(), text);
        }
        assert!("4k,512".parse::<Sizes>().unwrap().fit(512));
        assert!(!"4k,512".parse::<Sizes>().unwrap().fit(4096));
        assert_eq!("4k,4k".parse::<Sizes>().unwrap().single(), Some(4096));
        assert_eq!("4k-8k".parse::<Sizes>().unwrap().single(), None);
    }

    #[test]
    fn luns_are_listed_once() {
        assert_eq!("0,2-4".parse(), Ok(Luns(vec![0, 2, 3, 4])));
        for text in ["", "x", "1,1", "3-1", "16384", "0-2,1"] {
            assert!(text.parse::<Luns>().is_err(), "{text}");
        }
    }
}
