//! `strftime_now`: the date in a prompt, as Python's `datetime.now().strftime(…)` writes it, with which the Transformers
//! library sets templates up: local time, English names (those of C's locale), no time zone.

use std::fmt::Write as _;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use minijinja::{Error, ErrorKind};

/// A prompt's date is short; longer formats are a template's mistake.
const MAX_FORMAT_BYTES: usize = 1024;

/// Now, where this machine is (`TZ`, else `/etc/localtime`); or `seconds` since 1970 in UTC.
pub(super) fn format(format: &str, seconds: Option<i64>) -> Result<String, Error> {
    let now = match seconds {
        None => ZonedDateTime::now(),
        Some(seconds) => Timestamp::from_second(seconds)
            .map_err(|e| failed(format!("{seconds} seconds: {e}")))?
            .to_zoned_datetime(TimeZone::UTC),
    };
    format_at(format, &now)
}

fn format_at(format: &str, now: &ZonedDateTime) -> Result<String, Error> {
    if format.len() > MAX_FORMAT_BYTES {
        return Err(failed("the format is too long"));
    }
    let mut out = String::new();
    write_all(format, now, &mut out)?;
    Ok(out)
}

fn write_all(format: &str, now: &ZonedDateTime, out: &mut String) -> Result<(), Error> {
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let padding = chars.next_if(|c| ['-', '_', '0', '^'].contains(c));
        // POSIX: another calendar or other digits, where the locale has them. C's has none.
        chars.next_if(|c| ['E', 'O'].contains(c));
        let conversion = chars.next();
        let written = conversion.and_then(|c| written(c, now));
        let Some(written) = written else {
            let shown = conversion.map(String::from).unwrap_or_default();
            return Err(failed(format!("unknown conversion %{shown}")));
        };
        match written {
            Written::Number { value, width, pad } => {
                write_number(value, width, padding.or(pad), out)
            }
            Written::Text(text) if padding == Some('^') => out.push_str(&text.to_uppercase()),
            Written::Text(text) => out.push_str(&text),
            Written::Format(format) => write_all(format, now, out)?,
        }
    }
    Ok(())
}

/// What a conversion stands for.
enum Written {
    /// A number, at least `width` wide, filled with `pad` where the format names nothing else; `None` is 0.
    Number { value: i64, width: usize, pad: Option<char> },
    /// A text.
    Text(String),
    /// Other conversions.
    Format(&'static str),
}

fn write_number(value: i64, width: usize, padding: Option<char>, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = match padding {
        Some('-') => write!(out, "{value}"),
        Some('_') => write!(out, "{value:width$}"),
        Some(_) | None => write!(out, "{value:0width$}"),
    };
}

/// The conversions of Python's documentation, and those that the C library adds on Linux.
fn written(conversion: char, now: &ZonedDateTime) -> Option<Written> {
    let at = now.datetime();
    let number = |value: i64, width| Some(Written::Number { value, width, pad: None });
    let spaced = |value: i64| Some(Written::Number { value, width: 2, pad: Some('_') });
    let text = |text: &str| Some(Written::Text(text.to_owned()));
    let (year, hour) = (i64::from(at.year()), i64::from(at.hour()));
    let hour_12 = (hour + 11) % 12 + 1;
    let week = at.date().iso_week_date();
    match conversion {
        'Y' => number(year, 4),
        'C' => number(year.div_euclid(100), 2),
        'y' => number(year.rem_euclid(100), 2),
        'G' => number(week.year().into(), 4),
        'g' => number(i64::from(week.year()).rem_euclid(100), 2),
        'm' => number(at.month().into(), 2),
        'd' => number(at.day().into(), 2),
        'e' => spaced(at.day().into()),
        'j' => number(at.day_of_year().into(), 3),
        'U' => number(week_of_year(at, at.weekday().to_sunday_zero_offset()), 2),
        'W' => number(week_of_year(at, at.weekday().to_monday_zero_offset()), 2),
        'V' => number(week.week().into(), 2),
        'w' => number(at.weekday().to_sunday_zero_offset().into(), 1),
        'u' => number(at.weekday().to_monday_one_offset().into(), 1),
        'H' => number(hour, 2),
        'k' => spaced(hour),
        'I' => number(hour_12, 2),
        'l' => spaced(hour_12),
        'M' => number(at.minute().into(), 2),
        'S' => number(at.second().into(), 2),
        'f' => number(i64::from(at.subsec_nanosecond()) / 1000, 6),
        's' => number(now.timestamp().as_second(), 1),
        'B' => text(MONTHS[usize::from(at.month().unsigned_abs()) - 1]),
        'b' | 'h' => text(&MONTHS[usize::from(at.month().unsigned_abs()) - 1][..3]),
        'A' => text(DAYS[usize::from(at.weekday().to_monday_zero_offset().unsigned_abs())]),
        'a' => text(&DAYS[usize::from(at.weekday().to_monday_zero_offset().unsigned_abs())][..3]),
        'p' => text(if hour < 12 { "AM" } else { "PM" }),
        'P' => text(if hour < 12 { "am" } else { "pm" }),
        // A `datetime` without a time zone writes nothing there.
        'Z' | 'z' => text(""),
        'n' => text("\n"),
        't' => text("\t"),
        '%' => text("%"),
        'c' => Some(Written::Format("%a %b %e %H:%M:%S %Y")),
        'x' | 'D' => Some(Written::Format("%m/%d/%y")),
        'X' | 'T' => Some(Written::Format("%H:%M:%S")),
        'r' => Some(Written::Format("%I:%M:%S %p")),
        'R' => Some(Written::Format("%H:%M")),
        'F' => Some(Written::Format("%Y-%m-%d")),
        _ => None,
    }
}

/// The week of the year where weeks begin on the day that `weekday` counts from; days before the first such are week 0.
fn week_of_year(at: DateTime, weekday: i8) -> i64 {
    (i64::from(at.day_of_year()) + 6 - i64::from(weekday)) / 7
}

fn failed(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {what}"))
}

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
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(format: &str, seconds: i64) -> String {
        super::format(format, Some(seconds)).unwrap()
    }

    /// Python 3.11's `datetime.fromtimestamp(seconds).strftime(…)` with `TZ=UTC` in C's locale.
    #[test]
    fn every_conversion_of_python_s() {
        let all = "%a %A %w %d %b %B %m %y %Y %H %I %p %M %S %f %z %Z %j %U %W %c %x %X %% %G %u %V %e %D %R %s %g %C %P \
                   %k %l %h %r %T %F %-d %_m %^a %Ey %Od|%n|%t|";
        let cases = [
            (
                0,
                "Thu Thursday 4 01 Jan January 01 70 1970 00 12 AM 00 00 000000   001 00 00 Thu Jan  1 00:00:00 1970 01/01/70 00:00:00 % 1970 4 01  1 01/01/70 00:00 0 70 19 am  0 12 Jan 12:00:00 AM 00:00:00 1970-01-01 1  1 THU 70 01|\n|\t|",
            ),
            (
                1721952000,
                "Fri Friday 5 26 Jul July 07 24 2024 00 12 AM 00 00 000000   208 29 30 Fri Jul 26 00:00:00 2024 07/26/24 00:00:00 % 2024 5 30 26 07/26/24 00:00 1721952000 24 20 am  0 12 Jul 12:00:00 AM 00:00:00 2024-07-26 26  7 FRI 24 26|\n|\t|",
            ),
            (
                1709164800,
                "Thu Thursday 4 29 Feb February 02 24 2024 00 12 AM 00 00 000000   060 08 09 Thu Feb 29 00:00:00 2024 02/29/24 00:00:00 % 2024 4 09 29 02/29/24 00:00 1709164800 24 20 am  0 12 Feb 12:00:00 AM 00:00:00 2024-02-29 29  2 THU 24 29|\n|\t|",
            ),
            (
                1735689599,
                "Tue Tuesday 2 31 Dec December 12 24 2024 23 11 PM 59 59 000000   366 52 53 Tue Dec 31 23:59:59 2024 12/31/24 23:59:59 % 2025 2 01 31 12/31/24 23:59 1735689599 25 20 pm 23 11 Dec 11:59:59 PM 23:59:59 2024-12-31 31 12 TUE 24 31|\n|\t|",
            ),
            (
                951782400,
                "Tue Tuesday 2 29 Feb February 02 00 2000 00 12 AM 00 00 000000   060 09 09 Tue Feb 29 00:00:00 2000 02/29/00 00:00:00 % 2000 2 09 29 02/29/00 00:00 951782400 00 20 am  0 12 Feb 12:00:00 AM 00:00:00 2000-02-29 29  2 TUE 00 29|\n|\t|",
            ),
            (
                4107542400,
                "Mon Monday 1 01 Mar March 03 00 2100 00 12 AM 00 00 000000   060 09 09 Mon Mar  1 00:00:00 2100 03/01/00 00:00:00 % 2100 1 09  1 03/01/00 00:00 4107542400 00 21 am  0 12 Mar 12:00:00 AM 00:00:00 2100-03-01 1  3 MON 00 01|\n|\t|",
            ),
            (
                -1,
                "Wed Wednesday 3 31 Dec December 12 69 1969 23 11 PM 59 59 000000   365 52 52 Wed Dec 31 23:59:59 1969 12/31/69 23:59:59 % 1970 3 01 31 12/31/69 23:59 -1 70 19 pm 23 11 Dec 11:59:59 PM 23:59:59 1969-12-31 31 12 WED 69 31|\n|\t|",
            ),
            (
                1767225600,
                "Thu Thursday 4 01 Jan January 01 26 2026 00 12 AM 00 00 000000   001 00 00 Thu Jan  1 00:00:00 2026 01/01/26 00:00:00 % 2026 4 01  1 01/01/26 00:00 1767225600 26 20 am  0 12 Jan 12:00:00 AM 00:00:00 2026-01-01 1  1 THU 26 01|\n|\t|",
            ),
            (
                1609506000,
                "Fri Friday 5 01 Jan January 01 21 2021 13 01 PM 00 00 000000   001 00 00 Fri Jan  1 13:00:00 2021 01/01/21 13:00:00 % 2020 5 53  1 01/01/21 13:00 1609506000 20 20 pm 13  1 Jan 01:00:00 PM 13:00:00 2021-01-01 1  1 FRI 21 01|\n|\t|",
            ),
            (
                1451606400,
                "Fri Friday 5 01 Jan January 01 16 2016 00 12 AM 00 00 000000   001 00 00 Fri Jan  1 00:00:00 2016 01/01/16 00:00:00 % 2015 5 53  1 01/01/16 00:00 1451606400 15 20 am  0 12 Jan 12:00:00 AM 00:00:00 2016-01-01 1  1 FRI 16 01|\n|\t|",
            ),
            (
                1230768000,
                "Thu Thursday 4 01 Jan January 01 09 2009 00 12 AM 00 00 000000   001 00 00 Thu Jan  1 00:00:00 2009 01/01/09 00:00:00 % 2009 4 01  1 01/01/09 00:00 1230768000 09 20 am  0 12 Jan 12:00:00 AM 00:00:00 2009-01-01 1  1 THU 09 01|\n|\t|",
            ),
        ];
        for (seconds, expected) in cases {
            assert_eq!(utc(all, seconds), expected, "{seconds}");
        }
        assert!(format("%Q", Some(0)).unwrap_err().to_string().contains("%Q"));
        assert!(format("%", Some(0)).is_err());
    }

    /// A day in December and one in July, where clocks go by summer time, and east of Greenwich.
    #[test]
    fn time_is_that_of_the_zone() {
        let at = |seconds, zone: &str| {
            let zone = TimeZone::posix(zone).unwrap();
            let now = Timestamp::from_second(seconds).unwrap().to_zoned_datetime(zone);
            format_at("%F %T|%z%Z|%s", &now).unwrap()
        };
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        assert_eq!(at(1_735_687_800, berlin), "2025-01-01 00:30:00||1735687800");
        assert_eq!(at(1_721_952_000, berlin), "2024-07-26 02:00:00||1721952000");
        assert_eq!(at(1_735_687_800, "JST-9"), "2025-01-01 08:30:00||1735687800");
        assert_eq!(at(1_735_687_800, "PST8"), "2024-12-31 15:30:00||1735687800");
    }
}
