//! Sets of completion indexes as a Job's status has them: `1,3-5,7`. They are kept as ranges, as a Job may have two
//! thousand million indexes.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges by their first index, with their last; no two overlap or touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(BTreeMap<i32, i32>);

impl Indexes {
    /// Reads what is below `limit`; what cannot be read is passed over.
    pub(super) fn parse(text: &str, limit: i32) -> Self {
        let mut all = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.trim().parse::<i32>(), last.trim().parse::<i32>()) {
                all.add(first.max(0), last.min(limit - 1));
            }
        }
        all
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        self.0.range(..=index).next_back().is_some_and(|(_, last)| *last >= index)
    }

    /// False if it was there already.
    pub(super) fn insert(&mut self, index: i32) -> bool {
        let new = !self.contains(index);
        self.add(index, index);
        new
    }

    /// Adds a range, which may be empty.
    fn add(&mut self, mut first: i32, mut last: i32) {
        if first > last {
            return;
        }
        // Those that it overlaps or touches become one with it.
        while let Some((&start, &end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if end < first.saturating_sub(1) {
                break;
            }
            self.0.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.0.insert(first, last);
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        other.0.iter().for_each(|(first, last)| all.add(*first, *last));
        all
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|(first, last)| usize::try_from(last - first).unwrap_or(0) + 1).sum()
    }

    /// How many there are in both.
    pub(super) fn common(&self, other: &Self) -> usize {
        self.len() + other.len() - self.union(other).len()
    }

    /// Those below `limit` that are not in the set, in order.
    pub(super) fn missing(&self, limit: i32) -> impl Iterator<Item = i32> {
        self.gaps(limit).flatten()
    }

    fn gaps(&self, limit: i32) -> impl Iterator<Item = Range<i32>> {
        let firsts = self.0.keys().copied().chain([limit]);
        let after = std::iter::once(0).chain(self.0.values().map(|last| last.saturating_add(1)));
        after.zip(firsts).map(move |(from, to)| from..to.min(limit))
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        let mut rest = Self::default();
        for gap in other.gaps(i32::MAX) {
            let within = self.0.range(..gap.end).rev().take_while(|(_, last)| **last >= gap.start);
            within.for_each(|(first, last)| rest.add(gap.start.max(*first), (gap.end - 1).min(*last)));
        }
        rest
    }
}

/// Three and more in a row are written as a range.
impl std::fmt::Display for Indexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, (first, last)) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Indexes {
        Indexes::parse(text, i32::MAX)
    }

    #[test]
    fn sets_are_read_and_written() {
        for text in ["", "1,3-5,7", "0,1", "0-2"] {
            assert_eq!(set(text).to_string(), text);
        }
        assert_eq!(Indexes::parse("2-9,x,40", 5).to_string(), "2-4");
        assert_eq!(set("7,4-5,1,3,4-6,9").to_string(), "1,3-7,9");
        assert_eq!((set("").len(), set("1,3-5,7").len()), (0, 5));
    }

    #[test]
    fn ranges_grow_together() {
        let mut indexes = set("1,3");
        assert!(indexes.contains(3) && !indexes.contains(2) && !indexes.insert(3) && indexes.insert(2));
        assert_eq!((indexes.to_string().as_str(), indexes.len()), ("1-3", 3));
        assert_eq!(indexes.missing(6).collect::<Vec<_>>(), [0, 4, 5]);
        assert_eq!(set("").missing(2).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(set("0-9").missing(5).count(), 0);
        assert_eq!(set("0-9").without(&set("0,3-5,9,20")).to_string(), "1,2,6-8");
        assert_eq!(set("1-3,7").common(&set("2-8")), 3);
    }

    #[test]
    fn huge_ranges_cost_nothing() {
        let all = Indexes::parse("0-2147483646", i32::MAX);
        assert_eq!((all.len(), all.to_string().as_str()), (2_147_483_647, "0-2147483646"));
        assert_eq!((all.missing(i32::MAX).count(), all.common(&all), all.without(&all)), (0, all.len(), set("")));
        assert_eq!(all.without(&set("5")).missing(i32::MAX).collect::<Vec<_>>(), [5]);
        assert_eq!(Indexes::parse("0-2147483647", i32::MAX), all);
    }
}
