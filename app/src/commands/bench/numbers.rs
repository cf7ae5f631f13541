//! Lists of numbers as llama-bench takes them: `512,4096`, `1-4`, `16-64+16`, `128-1024*2`.

use std::str::FromStr;

/// More in one range are a slip of the finger.
const MOST: usize = 1000;

/// What stands between two commas: a number, or a range of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbers(Vec<usize>);

impl Numbers {
    /// All of several, in their order.
    pub(super) fn all(list: &[Self]) -> impl Iterator<Item = usize> {
        list.iter().flat_map(|numbers| numbers.0.iter().copied())
    }
}

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            || "allowed are 512, 1-4, 16-64+16 and 128-1024*2, with commas between them".to_owned();
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<usize>().map_err(|_| form()),
            false => Err(form()),
        };
        let Some((first, rest)) = text.split_once('-') else {
            return Ok(Self(vec![number(text)?]));
        };
        let first = number(first)?;
        let at = rest.find(['+', '*']).unwrap_or(rest.len());
        let last = number(&rest[..at])?;
        let step = if at < rest.len() { number(&rest[at + 1..])? } else { 1 };
        let next = |n: usize| match rest[at..].starts_with('*') {
            true => n.checked_mul(step),
            false => n.checked_add(step),
        };
        let mut numbers = Vec::new();
        let mut here = Some(first);
        while let Some(n) = here.filter(|&n| n <= last) {
            numbers.push(n);
            here = next(n);
            if here.is_some_and(|after| after <= n) || numbers.len() > MOST {
                return Err(format!("a range that does not end within {MOST} numbers"));
            }
        }
        if numbers.is_empty() {
            Err("a range whose end is before its beginning".to_owned())
        } else {
            Ok(Self(numbers))
        }
    }
}

/// Numbers from 1.
pub(super) fn positive(text: &str) -> Result<Numbers, String> {
    let numbers: Numbers = text.parse()?;
    if numbers.0.contains(&0) {
        Err("allowed are whole numbers from 1".to_owned())
    } else {
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `parse_int_range` of llama-bench makes of each.
    #[test]
    fn ranges_are_llama_bench_s() {
        for (text, numbers) in [
            ("512", &[512][..]),
            ("1-4", &[1, 2, 3, 4]),
            ("16-64+16", &[16, 32, 48, 64]),
            ("16-63+16", &[16, 32, 48]),
            ("128-1024*2", &[128, 256, 512, 1024]),
            ("0-2", &[0, 1, 2]),
            ("7-7", &[7]),
        ] {
            assert_eq!(text.parse(), Ok(Numbers(numbers.to_vec())), "{text}");
        }
        for text in [
            "", "x", "1-", "-1", "1-4+", "1-4/2", "4-1", "1-4+0", "0-8*2", "1-9*1", "0-1001", "+1",
            "1-+4",
        ] {
            assert!(text.parse::<Numbers>().is_err(), "{text}");
        }
        assert!(positive("0-2").is_err() && positive("1-2").is_ok());
    }
}
