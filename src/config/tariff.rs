//! What sending costs at which hour, and the calendar that needs.
//!
//! The core knows one price at a time; whoever has the wall clock asks here which. Hours are those of the
//! operator's contract: UTC moved by a fixed `utc_offset`, without summer time.

use super::read::{Reader, Section};
use super::value::{self, Bad, Read};
use crate::unit::Price;

/// A price for some hours of some days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tariff {
    /// First minute of the day.
    pub from_min: u16,
    /// First minute that is not meant any more; not above `from_min` where the hours cross midnight.
    pub to_min: u16,
    /// Days on which its hours begin: bit 0 is Monday.
    pub days: u8,
    /// Price of a gigabyte sent.
    pub price: Price,
}

/// Every day.
const ALL_DAYS: u8 = 0x7f;
const DAY_MIN: i64 = 24 * 60;

impl Tariff {
    /// Whether this minute since the first Monday of local time is meant.
    fn holds(&self, minute: i64) -> bool {
        let (day, of_day) = (minute.div_euclid(DAY_MIN), minute.rem_euclid(DAY_MIN));
        let begins = |day: i64| self.days >> day.rem_euclid(7) & 1 == 1;
        let (from, to) = (i64::from(self.from_min), i64::from(self.to_min));
        if from < to {
            return begins(day) && (from..to).contains(&of_day);
        }
        (begins(day) && of_day >= from) || (begins(day - 1) && of_day < to)
    }
}

/// The price in force at a time: the first tariff that holds, or else the price beside them.
pub fn price_at(tariffs: &[Tariff], otherwise: Price, offset_min: i16, unix_s: u64) -> Price {
    // 1970 began on a Thursday.
    let minute = (unix_s / 60) as i64 + i64::from(offset_min) + 3 * DAY_MIN;
    tariffs.iter().find(|tariff| tariff.holds(minute)).map_or(otherwise, |tariff| tariff.price)
}

/// The month of local time, counted from the year 0: `year · 12 + month − 1`.
pub fn month_of(offset_min: i16, unix_s: u64) -> u32 {
    let days = ((unix_s / 60) as i64 + i64::from(offset_min)).div_euclid(DAY_MIN);
    // Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (month, next) = if shifted < 10 { (shifted + 2, 0) } else { (shifted - 10, 1) };
    u32::try_from((era * 400 + year + next) * 12 + month).unwrap_or(0)
}

/// A month as people write it.
pub fn month_name(month: u32) -> String {
    format!("{:04}-{:02}", month / 12, month % 12 + 1)
}

/// Reads every `[[tariff]]`.
pub(super) fn read(reader: &mut Reader<'_>, sections: &[Section<'_, '_>]) -> Vec<Tariff> {
    let mut tariffs = Vec::new();
    for section in sections {
        let hours = section.need(reader, "hours", "\"22:00-06:00\"", hours);
        let days = section.read(reader, "days", |v| {
            let days = value::list(v, |v| value::word(v, &DAYS))?;
            Ok(days.into_iter().fold(0, |set, day| set | 1 << day))
        });
        let price = section.need(reader, "price_per_gb", "0.01", value::price);
        let (Some((from_min, to_min)), Some(price)) = (hours, price) else { continue };
        let days = days.filter(|&set: &u8| set != 0).unwrap_or(ALL_DAYS);
        tariffs.push(Tariff { from_min, to_min, days, price });
    }
    tariffs
}

const DAYS: [(&str, u8); 7] =
    [("mon", 0), ("tue", 1), ("wed", 2), ("thu", 3), ("fri", 4), ("sat", 5), ("sun", 6)];

/// `"22:00-06:00"`.
fn hours(value: &toml::de::DeValue<'_>) -> Read<(u16, u16)> {
    let text = value::string(value)?;
    let bad = || {
        let fix =
            "write the first and the last minute, like \"22:00-06:00\"; a day is \"00:00-24:00\"";
        Bad::new(format!("\"{text}\" are no hours"), fix)
    };
    let (from, to) = text.split_once('-').ok_or_else(bad)?;
    let (from, to) = (clock(from).ok_or_else(bad)?, clock(to).ok_or_else(bad)?);
    if from == to || from == 24 * 60 { Err(bad()) } else { Ok((from, to)) }
}

/// Minutes of `"06:30"`.
fn clock(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let digits = |t: &str| t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let all = hour * 60 + minute;
    (minute < 60 && all <= 24 * 60).then_some(all)
}

/// `"+01:00"`: minutes.
pub(super) fn offset(value: &toml::de::DeValue<'_>) -> Read<i16> {
    let text = value::string(value)?;
    let bad = || {
        Bad::new(format!("\"{text}\" is no offset"), "write for example \"+01:00\" or \"-05:00\"")
    };
    let (sign, rest) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(bad()),
    };
    let minutes = clock(rest).filter(|&m| m <= 14 * 60).ok_or_else(bad)?;
    Ok(sign * minutes as i16)
}

/// Money a month, in millionths.
pub(super) fn budget(value: &toml::de::DeValue<'_>) -> Read<u64> {
    use toml::de::DeValue;
    let number = match value {
        DeValue::Integer(i) => i.as_str().parse::<f64>().ok(),
        DeValue::Float(f) => f.as_str().parse::<f64>().ok(),
        _ => None,
    };
    match number {
        Some(n) if n > 0.0 && n <= 1e9 => Ok((n * 1e6).round() as u64),
        _ => Err(Bad::new("is no budget", "write currency units a month above 0, like 50.0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21, a Saturday, at this minute of UTC.
    fn saturday(hour: u64, minute: u64) -> u64 {
        1_795_219_200 + hour * 3600 + minute * 60
    }

    #[test]
    fn hours_days_and_midnight() {
        let night =
            Tariff { from_min: 22 * 60, to_min: 6 * 60, days: ALL_DAYS, price: Price(10_000) };
        let weekend = Tariff { from_min: 0, to_min: 24 * 60, days: 0x60, price: Price(50_000) };
        let all = [night, weekend];
        let at = |unix_s| price_at(&all, Price(90_000), 0, unix_s).0;
        assert_eq!((at(saturday(21, 59)), at(saturday(22, 0))), (50_000, 10_000));
        assert_eq!((at(saturday(5, 59)), at(saturday(6, 0))), (10_000, 50_000));
        assert_eq!(at(saturday(12, 0) + 2 * 86_400), 90_000, "a Monday noon");
        // A night that begins on Friday alone lasts into Saturday, and no other does.
        let friday = [Tariff { days: 1 << 4, ..night }];
        let at = |unix_s| price_at(&friday, Price(90_000), 0, unix_s).0;
        assert_eq!((at(saturday(5, 0)), at(saturday(23, 0))), (10_000, 90_000));
        assert_eq!(at(saturday(5, 0) + 86_400), 90_000);
        // One hour east of UTC the night begins an hour earlier.
        assert_eq!(price_at(&all, Price(1), 60, saturday(21, 0)).0, 10_000);
    }

    #[test]
    fn months_begin_where_the_calendar_says() {
        let name = |offset, unix_s| month_name(month_of(offset, unix_s));
        assert_eq!(name(0, 0), "1970-01");
        assert_eq!(name(0, saturday(0, 0)), "2026-11");
        assert_eq!(
            (name(0, 951_782_399), name(0, 951_868_800)),
            ("2000-02".into(), "2000-03".into())
        );
        assert_eq!(
            (name(0, 1_798_761_599), name(0, 1_798_761_600)),
            ("2026-12".into(), "2027-01".into())
        );
        assert_eq!(name(60, 1_798_758_000), "2027-01", "it begins earlier in the east");
        assert_eq!(name(-60, 0), "1969-12");
    }
}
