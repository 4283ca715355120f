//! Schedules as crontab(5) has them: five fields, or a name such as `@daily`, with the errors of the reference's parser.

use k8s_openapi::jiff::tz::{AmbiguousOffset, TimeZone};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The fields in their order: least value, greatest value, and the names that stand for values.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];
const NAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
/// A schedule that has no time in so many days, such as one of the 30th of February, has none.
const HORIZON_DAYS: i64 = 5 * 366;

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CronSchedule {
    /// At these minutes, hours, days of the month, months and days of the week.
    At([Field; 5]),
    Every(SignedDuration),
}

/// The values of a field as bits, and whether it began with a star.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    bits: u64,
    any: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits >> value & 1 == 1)
    }
}

impl CronSchedule {
    /// The time between two times, in whole seconds and one at least; `None` where it varies.
    pub fn period(&self) -> Option<SignedDuration> {
        match self {
            Self::Every(delay) => Some(SignedDuration::from_secs(delay.as_secs().max(1))),
            Self::At(_) => None,
        }
    }

    /// The first time after `after`, to the second. Times that a change of the clock leaves out are left out.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let fields = match self {
            Self::Every(_) => {
                let next = after.checked_add(self.period()?).ok()?;
                return Timestamp::from_second(next.as_second()).ok();
            }
            Self::At(fields) => fields,
        };
        let [minutes, hours, days, months, weekdays] = *fields;
        let today = after.to_zoned(zone.clone()).date();
        for offset in 0..HORIZON_DAYS {
            let date = today.checked_add(SignedDuration::from_hours(24 * offset)).ok()?;
            let (by_day, by_weekday) = (days.has(date.day()), weekdays.has(date.weekday().to_sunday_zero_offset()));
            // Where both are given either will do.
            let matches = if days.any || weekdays.any { by_day && by_weekday } else { by_day || by_weekday };
            if !matches || !months.has(date.month()) {
                continue;
            }
            for hour in (0..24).filter(|hour| hours.has(*hour)) {
                for minute in (0..60).filter(|minute| minutes.has(*minute)) {
                    let time = zone.to_ambiguous_timestamp(date.at(hour, minute, 0, 0));
                    let skipped = matches!(time.offset(), AmbiguousOffset::Gap { .. });
                    if let Some(time) = time.compatible().ok().filter(|time| !skipped && *time > after) {
                        return Some(time);
                    }
                }
            }
        }
        None
    }
}

/// Reads a schedule.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse(schedule: &str) -> Result<CronSchedule, String> {
    let mut schedule = schedule.trim();
    if schedule.starts_with("TZ=") || schedule.starts_with("CRON_TZ=") {
        schedule = schedule.split_once(' ').map_or("", |(_, rest)| rest.trim());
    }
    if let Some(every) = schedule.strip_prefix("@every ") {
        let delay = every.parse().map_err(|e| format!("failed to parse duration {schedule}: {e}"))?;
        return Ok(CronSchedule::Every(delay));
    }
    if schedule.starts_with('@') {
        let named = NAMES.iter().find(|(name, _)| *name == schedule);
        return parse(named.ok_or_else(|| format!("unrecognized descriptor: {schedule}"))?.1);
    }
    let texts: Vec<&str> = schedule.split_whitespace().collect();
    if texts.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", texts.len(), texts.join(" ")));
    }
    let mut fields = [Field::default(); 5];
    for ((field, text), bounds) in fields.iter_mut().zip(texts).zip(FIELDS) {
        for range in text.split(',').filter(|range| !range.is_empty()) {
            let range = parse_range(range, bounds)?;
            *field = Field { bits: field.bits | range.bits, any: field.any || range.any };
        }
    }
    Ok(CronSchedule::At(fields))
}

/// `*`, `3`, `1-5`, `*/10`, `mon-fri`
fn parse_range(range: &str, (least, greatest, names): (u32, u32, &[&str])) -> Result<Field, String> {
    let mut by_step = range.split('/');
    let (span, step) = (by_step.next().unwrap_or_default(), by_step.next());
    if by_step.next().is_some() {
        return Err(format!("too many slashes: {range}"));
    }
    let mut ends = span.split('-');
    let (first, last) = (ends.next().unwrap_or_default(), ends.next());
    let number = |text: &str| match names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        Some(place) => Ok(u32::try_from(place).unwrap_or_default() + least),
        None => parse_number(text),
    };
    let star = first == "*" || first == "?";
    let (start, end) = if star {
        (least, greatest)
    } else {
        let start = number(first)?;
        let end = match last {
            Some(last) => number(last)?,
            // `3/5` is from 3 on.
            None if step.is_some() => greatest,
            None => start,
        };
        if ends.next().is_some() {
            return Err(format!("too many hyphens: {range}"));
        }
        (start, end)
    };
    let step = step.map_or(Ok(1), parse_number)?;
    match () {
        () if start < least => Err(format!("beginning of range ({start}) below minimum ({least}): {range}")),
        () if end > greatest => Err(format!("end of range ({end}) above maximum ({greatest}): {range}")),
        () if start > end => Err(format!("beginning of range ({start}) beyond end of range ({end}): {range}")),
        () if step == 0 => Err(format!("step of range should be a positive number: {range}")),
        () => {
            let values = (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX));
            // `*/2` is a choice as `0,2,4` is.
            Ok(Field { bits: values.fold(0, |bits, value| bits | 1 << value), any: star && step == 1 })
        }
    }
}

fn parse_number(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_that_cron_reads() {
        for schedule in ["* * * * *", "*/5 0-6,12 1 jan-Mar mon", "0 0 ? * 0", "3/10 * * * *", "@daily", "@every 1h30m"]
        {
            assert!(parse(schedule).is_ok(), "{schedule}");
        }
    }

    #[test]
    fn schedules_that_cron_does_not_read() {
        for (schedule, why) in [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@now", "unrecognized descriptor: @now"),
        ] {
            assert_eq!(parse(schedule), Err(why.to_owned()), "{schedule}");
        }
    }

    #[test]
    fn next_time_is_the_first_that_matches_all_fields() {
        // A Monday.
        let after = "2024-01-15T10:30:20Z";
        for (schedule, expected) in [
            ("* * * * *", Some("2024-01-15T10:31:00Z")),
            ("30 10 * * *", Some("2024-01-16T10:30:00Z")),
            ("*/15 9-17 * * mon-fri", Some("2024-01-15T10:45:00Z")),
            ("0 0 1 * *", Some("2024-02-01T00:00:00Z")),
            ("0 0 29 2 *", Some("2024-02-29T00:00:00Z")),
            ("0 0 30 2 *", None),
            // Either the 20th or a Sunday.
            ("0 0 20 * sun", Some("2024-01-20T00:00:00Z")),
            ("0 0 * * sun", Some("2024-01-21T00:00:00Z")),
            ("@hourly", Some("2024-01-15T11:00:00Z")),
            ("@weekly", Some("2024-01-21T00:00:00Z")),
            ("@every 1h30m", Some("2024-01-15T12:00:20Z")),
        ] {
            let found = parse(schedule).unwrap().next(after.parse().unwrap(), &TimeZone::UTC);
            assert_eq!(found, expected.map(|time| time.parse().unwrap()), "{schedule}");
        }
    }

    #[test]
    fn time_that_the_clock_skips_is_left_out() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let schedule = parse("30 2 * * *").unwrap();
        let next = |after: &str| schedule.next(after.parse().unwrap(), &zone).unwrap().to_string();
        assert_eq!(next("2024-03-30T00:00:00Z"), "2024-03-30T01:30:00Z");
        assert_eq!(next("2024-03-30T12:00:00Z"), "2024-04-01T00:30:00Z");
    }
}
