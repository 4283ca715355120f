//! Schedules as crontab(5) has them: five fields, or a name such as `@daily`, with the errors of the reference's parser.

/// The fields in their order: least value, greatest value, and the names that stand for values.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];
const NAMES: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Whether `schedule` can be read.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn parse(schedule: &str) -> Result<(), String> {
    let mut schedule = schedule.trim();
    if schedule.starts_with("TZ=") || schedule.starts_with("CRON_TZ=") {
        schedule = schedule.split_once(' ').map_or("", |(_, rest)| rest.trim());
    }
    if let Some(every) = schedule.strip_prefix("@every ") {
        return match every.parse::<k8s_openapi::jiff::SignedDuration>() {
            Ok(_) => Ok(()),
            Err(e) => Err(format!("failed to parse duration {schedule}: {e}")),
        };
    }
    if schedule.starts_with('@') {
        return if NAMES.contains(&schedule) { Ok(()) } else { Err(format!("unrecognized descriptor: {schedule}")) };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, bounds) in fields.into_iter().zip(FIELDS) {
        field.split(',').filter(|range| !range.is_empty()).try_for_each(|range| check_range(range, bounds))?;
    }
    Ok(())
}

/// `*`, `3`, `1-5`, `*/10`, `mon-fri`
fn check_range(range: &str, (least, greatest, names): (u32, u32, &[&str])) -> Result<(), String> {
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
    let (start, end) = if first == "*" || first == "?" {
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
        () => Ok(()),
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
            assert_eq!(parse(schedule), Ok(()), "{schedule}");
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
}
