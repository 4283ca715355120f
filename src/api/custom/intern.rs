//! Names of custom resources, kept for the life of the process.
//!
//! What is fixed about a kind is `'static` everywhere else. Names of custom resources come and go, but there are few
//! distinct ones: each is kept once.

use std::collections::HashSet;
use std::hash::Hash;

use parking_lot::Mutex;

use crate::api::kinds::Column;

static TEXTS: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
static LISTS: Mutex<Option<HashSet<&'static [&'static str]>>> = Mutex::new(None);
static COLUMNS: Mutex<Option<HashSet<&'static [Column]>>> = Mutex::new(None);

pub(super) fn text(text: &str) -> &'static str {
    if let Some(known) = TEXTS.lock().get_or_insert_default().get(text) {
        return known;
    }
    keep(&TEXTS, Box::leak(text.to_owned().into_boxed_str()))
}

pub(super) fn list(texts: &[String]) -> &'static [&'static str] {
    let texts: Vec<&'static str> = texts.iter().map(|item| text(item)).collect();
    slice(&LISTS, texts)
}

pub(super) fn columns(columns: Vec<Column>) -> &'static [Column] {
    slice(&COLUMNS, columns)
}

fn slice<T: Eq + Hash + Clone>(known: &Mutex<Option<HashSet<&'static [T]>>>, items: Vec<T>) -> &'static [T] {
    if let Some(known) = known.lock().get_or_insert_default().get(items.as_slice()) {
        return known;
    }
    keep(known, Box::leak(items.into_boxed_slice()))
}

fn keep<T: ?Sized + Eq + Hash>(known: &Mutex<Option<HashSet<&'static T>>>, value: &'static T) -> &'static T {
    known.lock().get_or_insert_default().insert(value);
    value
}
