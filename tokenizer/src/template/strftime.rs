//! `strftime_now`: the date in a prompt, in UTC.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
/// A prompt's date is short; longer formats are a template's mistake.
const MAX_FORMAT_BYTES: usize = 1024;

/// C's strftime of `seconds` since 1970 (or of now), for the conversions of a date and a time.
pub(super) fn format(format: &str, seconds: Option<i64>) -> Result<String, Error> {
    if format.len() > MAX_FORMAT_BYTES {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "strftime_now: the format is too long",
        ));
    }
    let clock = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|d| i64::try_from(d.as_secs()).ok())
    };
    let time = Time::new(seconds.or_else(clock).unwrap_or(0));
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut conversion = chars.next();
        let padded = conversion != Some('-');
        if !padded {
            conversion = chars.next();
        }
        time.write(conversion, padded, &mut out).ok_or_else(|| {
            let shown = conversion.map(String::from).unwrap_or_default();
            Error::new(
                ErrorKind::InvalidOperation,
                format!("strftime_now: unknown conversion %{shown}"),
            )
        })?;
    }
    Ok(out)
}

struct Time {
    year: i64,
    /// 1 to 12.
    month: i64,
    day: i64,
    day_of_year: i64,
    /// 0 is Sunday.
    weekday: i64,
    second_of_day: i64,
}

impl Time {
    /// The civil date by Howard Hinnant's days-to-civil arithmetic: years begin in March, so that leap days come last.
    fn new(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400);
        let shifted = days.saturating_add(719_468);
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let day = day_from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let day_of_year =
            if month > 2 { day_from_march + 60 + i64::from(leap) } else { day_from_march - 305 };
        let weekday = days.saturating_add(4).rem_euclid(7);
        Self { year, month, day, day_of_year, weekday, second_of_day: seconds.rem_euclid(86_400) }
    }

    fn write(&self, conversion: Option<char>, padded: bool, out: &mut String) -> Option<()> {
        let name = |list: &[&'static str], index: i64| {
            usize::try_from(index).ok().and_then(|i| list.get(i).copied())
        };
        let number = |out: &mut String, value: i64, width: usize| {
            let width = if padded { width } else { 1 };
            write!(out, "{value:0width$}").ok()
        };
        let hour = self.second_of_day / 3600;
        match conversion? {
            'Y' => number(out, self.year, 4)?,
            'y' => number(out, self.year.rem_euclid(100), 2)?,
            'm' => number(out, self.month, 2)?,
            'd' => number(out, self.day, 2)?,
            'j' => number(out, self.day_of_year, 3)?,
            'H' => number(out, hour, 2)?,
            'I' => number(out, (hour + 11) % 12 + 1, 2)?,
            'M' => number(out, self.second_of_day / 60 % 60, 2)?,
            'S' => number(out, self.second_of_day % 60, 2)?,
            'B' => out.push_str(name(&MONTHS, self.month - 1)?),
            'b' | 'h' => out.push_str(&name(&MONTHS, self.month - 1)?[..3]),
            'A' => out.push_str(name(&DAYS, self.weekday)?),
            'a' => out.push_str(&name(&DAYS, self.weekday)?[..3]),
            'p' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            'F' => out.push_str(&format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)),
            'T' => {
                let (minute, second) = (self.second_of_day / 60 % 60, self.second_of_day % 60);
                out.push_str(&format!("{hour:02}:{minute:02}:{second:02}"));
            }
            'Z' => out.push_str("UTC"),
            'z' => out.push_str("+0000"),
            '%' => out.push('%'),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn dates() {
        let cases = [
            (0, "%Y-%m-%d %H:%M:%S %a %j", "1970-01-01 00:00:00 Thu 001"),
            (1_721_952_000, "%d %b %Y", "26 Jul 2024"),
            (1_709_164_800, "%F %A %j %-d. %B", "2024-02-29 Thursday 060 29. February"),
            (1_735_689_599, "%F %T %I %p %y %j", "2024-12-31 23:59:59 11 PM 24 366"),
            (951_782_400, "%F %j %-m", "2000-02-29 060 2"),
            (4_107_542_400, "%F %j %%", "2100-03-01 060 %"),
            (-1, "%F %T", "1969-12-31 23:59:59"),
        ];
        for (seconds, pattern, expected) in cases {
            assert_eq!(format(pattern, Some(seconds)).unwrap(), expected);
        }
        assert!(format("%Q", Some(0)).unwrap_err().to_string().contains("%Q"));
        assert!(format("%", Some(0)).is_err());
    }
}
