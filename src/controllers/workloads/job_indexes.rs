//! Sets of completion indexes as a Job's status has them: `1,3-5,7`.

use std::collections::BTreeSet;

/// Reads what is below `limit`; what cannot be read is passed over.
pub(super) fn parse(text: &str, limit: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<i32>(), last.trim().parse::<i32>()) {
            all.extend(first.max(0)..=last.min(limit - 1));
        }
    }
    all
}

/// Three and more in a row are written as a range.
pub(super) fn format(indexes: &BTreeSet<i32>) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for &index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => ranges.push((index, index)),
        }
    }
    let texts = ranges.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_written() {
        for (text, indexes) in
            [("", vec![]), ("1,3-5,7", vec![1, 3, 4, 5, 7]), ("0,1", vec![0, 1]), ("0-2", vec![0, 1, 2])]
        {
            let set: BTreeSet<i32> = indexes.into_iter().collect();
            assert_eq!(parse(text, 100), set);
            assert_eq!(format(&set), text);
        }
        assert_eq!(parse("2-9,x,40", 5).into_iter().collect::<Vec<_>>(), [2, 3, 4]);
    }
}
