//! Sets of core numbers, as SPDK's `-m` option writes them.
//!
//! A hexadecimal mask with or without `0x` ([`0x3`, `3`]), or a list in brackets (`[0,1,10-12]`).

use std::fmt;
use std::str::FromStr;

/// Core numbers lie below this.
pub const CORES_MAX: usize = 1024;

/// A set of core numbers below [`CORES_MAX`]. Prints as a list, `0-1,4`; with `{:#x}` as a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CoreSet([u64; CORES_MAX / 64]);

/// A text that is no set of cores.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a set of cores: {reason}. Accepted: a hexadecimal mask (0x3 or 3) or a list \
     ([0,1,10-12]), with cores 0 to {}",
    CORES_MAX - 1
)]
pub struct CpumaskError {
    /// The text, cut after 64 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl CoreSet {
    /// No core.
    pub const fn new() -> Self {
        CoreSet([0; CORES_MAX / 64])
    }

    /// Adds a core. Panics at [`CORES_MAX`] and above.
    pub fn insert(&mut self, core: usize) {
        self.0[core / 64] |= 1 << (core % 64);
    }

    /// True for a member.
    pub fn contains(&self, core: usize) -> bool {
        self.0.get(core / 64).is_some_and(|word| word >> (core % 64) & 1 == 1)
    }

    /// Number of cores.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// True without cores.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The cores in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..CORES_MAX).filter(|core| self.contains(*core))
    }

    /// Reads a list without brackets, `0,1,10-12`, as the kernel's `cpu/online` has it. An empty
    /// text is the empty set.
    pub fn parse_list(text: &str) -> Result<Self, CpumaskError> {
        list(text.trim()).map_err(|reason| refused(text, reason))
    }
}

impl FromIterator<usize> for CoreSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cores: I) -> Self {
        let mut set = CoreSet::new();
        cores.into_iter().for_each(|core| set.insert(core));
        set
    }
}

impl FromStr for CoreSet {
    type Err = CpumaskError;

    fn from_str(text: &str) -> Result<Self, CpumaskError> {
        let trimmed = text.trim();
        let set = match trimmed.strip_prefix('[') {
            Some(rest) => match rest.strip_suffix(']') {
                Some(inside) => list(inside.trim()),
                None => Err("the list has no closing bracket".to_owned()),
            },
            None => mask(trimmed),
        };
        match set {
            Ok(set) if set.is_empty() => Err(refused(text, "it names no core".to_owned())),
            Ok(set) => Ok(set),
            Err(reason) => Err(refused(text, reason)),
        }
    }
}

fn refused(text: &str, reason: String) -> CpumaskError {
    CpumaskError { text: text.chars().take(64).collect(), reason }
}

fn mask(text: &str) -> Result<CoreSet, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if digits.is_empty() {
        return Err("it has no digits".to_owned());
    }
    if let Some(wrong) = digits.chars().find(|character| !character.is_ascii_hexdigit()) {
        return Err(format!("{wrong:?} is not a hexadecimal digit"));
    }
    let mut set = CoreSet::new();
    for (place, digit) in digits.chars().rev().filter_map(|digit| digit.to_digit(16)).enumerate() {
        if digit == 0 {
            continue;
        }
        if place * 4 >= CORES_MAX {
            return Err(format!(
                "core {} is too high",
                place * 4 + digit.trailing_zeros() as usize
            ));
        }
        set.0[place / 16] |= u64::from(digit) << (place % 16 * 4);
    }
    Ok(set)
}

fn list(text: &str) -> Result<CoreSet, String> {
    let mut set = CoreSet::new();
    if text.is_empty() {
        return Ok(set);
    }
    for item in text.split(',') {
        let (first, last) = match item.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(item)?, number(item)?),
        };
        if first > last {
            return Err(format!("the range {first}-{last} runs backwards"));
        }
        (first..=last).for_each(|core| set.insert(core));
    }
    Ok(set)
}

fn number(text: &str) -> Result<usize, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("a core number is missing".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let shown: String = text.chars().take(16).collect();
        return Err(format!("{shown:?} is not a core number"));
    }
    match text.parse::<usize>() {
        Ok(core) if core < CORES_MAX => Ok(core),
        _ => Err(format!("core {} is too high", text.chars().take(16).collect::<String>())),
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut cores = self.iter().peekable();
        while let Some(first) = cores.next() {
            let mut last = first;
            while let Some(next) = cores.next_if_eq(&(last + 1)) {
                last = next;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::LowerHex for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let highest = self.0.iter().rposition(|word| *word != 0).unwrap_or(0);
        let mut digits = format!("{:x}", self.0[highest]);
        for word in self.0[..highest].iter().rev() {
            digits.push_str(&format!("{word:016x}"));
        }
        f.pad_integral(true, "0x", &digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_texts() {
        let table: &[(&str, &[usize], &str, &str)] = &[
            ("0x1", &[0], "0", "0x1"),
            ("3", &[0, 1], "0-1", "0x3"),
            ("0X3", &[0, 1], "0-1", "0x3"),
            ("f0", &[4, 5, 6, 7], "4-7", "0xf0"),
            ("0xF00000000000000001", &[0, 68, 69, 70, 71], "0,68-71", "0xf00000000000000001"),
            ("10", &[4], "4", "0x10"),
            ("[10]", &[10], "10", "0x400"),
            ("[0,1,10-12]", &[0, 1, 10, 11, 12], "0-1,10-12", "0x1c03"),
            ("[ 3 , 1 - 2 ]", &[1, 2, 3], "1-3", "0xe"),
            ("[2,2,1-2]", &[1, 2], "1-2", "0x6"),
            (" 0x2\n", &[1], "1", "0x2"),
            ("00000000000000000000000000000000000000000000000000001", &[0], "0", "0x1"),
        ];
        for (text, cores, list, mask) in table {
            let set: CoreSet = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(set.iter().collect::<Vec<_>>(), *cores, "{text}");
            assert_eq!(set.len(), cores.len());
            assert_eq!((set.to_string().as_str(), format!("{set:#x}").as_str()), (*list, *mask));
            assert_eq!(format!("{set:#x}").parse(), Ok(set));
            assert_eq!(format!("[{set}]").parse(), Ok(set));
        }
    }

    #[test]
    fn the_highest_core() {
        let mut digits = "0x8".to_owned();
        digits.push_str(&"0".repeat(255));
        let by_mask: CoreSet = digits.parse().unwrap();
        assert_eq!(by_mask.iter().collect::<Vec<_>>(), [1023]);
        assert_eq!("[1023]".parse(), Ok(by_mask));
        assert!(!by_mask.contains(1024) && !by_mask.contains(usize::MAX));
    }

    #[test]
    fn bad_texts_name_themselves_and_what_is_accepted() {
        let long = format!("0x1{}", "0".repeat(256));
        let table = [
            ("", "no digits"),
            ("0x", "no digits"),
            ("0", "names no core"),
            ("[]", "names no core"),
            ("xyz", "'x' is not a hexadecimal digit"),
            ("-1", "'-' is not a hexadecimal digit"),
            ("0,1", "',' is not a hexadecimal digit"),
            ("0x3]", "']' is not"),
            ("[0,1", "closing bracket"),
            ("[0,]", "missing"),
            ("[,0]", "missing"),
            ("[1-]", "missing"),
            ("[-1]", "missing"),
            ("[1-2-3]", "\"2-3\" is not a core number"),
            ("[0x1]", "\"0x1\" is not a core number"),
            ("[+1]", "\"+1\" is not a core number"),
            ("[3-1]", "3-1 runs backwards"),
            ("[1024]", "core 1024 is too high"),
            ("[0-99999999999999999999999]", "core 9999999999999999 is too high"),
            (long.as_str(), "core 1024 is too high"),
        ];
        for (text, reason) in table {
            let error = text.parse::<CoreSet>().expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
            assert!(error.contains("(0x3 or 3)") && error.contains("[0,1,10-12]"), "{error}");
            assert!(error.contains(&text[..text.len().min(64)]), "{error}");
        }
    }

    #[test]
    fn the_kernels_lists() {
        assert_eq!(CoreSet::parse_list("0-1\n").unwrap().to_string(), "0-1");
        assert_eq!(CoreSet::parse_list("\n").unwrap().to_string(), "none");
        assert!(CoreSet::parse_list("0-1x").is_err());
    }
}
