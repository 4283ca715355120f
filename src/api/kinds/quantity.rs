//! Quantities of resources (`500m`, `1Gi`): their order and their canonical form, which is what the API gives back.
//!
//! The grammar and the canonical form are those of `k8s.io/apimachinery/pkg/api/resource`: the largest suffix without
//! a fraction, in the notation (decimal, binary or exponent) that was written.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

/// What is said of a text that is no quantity.
pub(super) const SYNTAX: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

const NANO: i128 = 1_000_000_000;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// Decimal suffixes from 10^-9 on, in steps of 1000.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notation {
    Decimal,
    Binary,
    Exponent,
}

/// An amount in billionths, exact for everything that the canonical form can say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    pub nano: i128,
    notation: Notation,
}

/// Reads a quantity; fractions below a billionth are rounded up, as the reference does.
pub(super) fn parse(text: &str) -> Option<Amount> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (notation, factor, exponent) = scale(suffix)?;
    // The digits as one number, times factor * 10^(exponent - digits after the point), in billionths.
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let power = exponent + 9 - i32::try_from(fraction.len()).ok()?;
    let product = digits.checked_mul(factor)?;
    let nano = match u32::try_from(power) {
        Ok(power) => product.checked_mul(10i128.checked_pow(power)?)?,
        Err(_) => match 10i128.checked_pow(power.unsigned_abs()) {
            Some(divisor) => product / divisor + i128::from(product % divisor != 0),
            None => i128::from(product != 0),
        },
    };
    Some(Amount { nano: if negative { -nano } else { nano }, notation })
}

/// A quantity as a number of billionths.
pub(crate) fn billionths(text: &str) -> Option<i128> {
    parse(text).map(|amount| amount.nano)
}

/// `(notation, factor, power of ten)` of a suffix.
fn scale(suffix: &str) -> Option<(Notation, i128, i32)> {
    if let Some(step) = BINARY.iter().skip(1).position(|name| *name == suffix) {
        return Some((Notation::Binary, 1 << (10 * (step + 1)), 0));
    }
    if let Some(step) = DECIMAL.iter().position(|name| *name == suffix) {
        return Some((Notation::Decimal, 1, 3 * i32::try_from(step).ok()? - 9));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (-30..=30).contains(&exponent).then_some((Notation::Exponent, 1, exponent))
}

impl Amount {
    fn canonical(self) -> String {
        if self.nano == 0 {
            return "0".into();
        }
        // A binary quantity below 1024, or with a fraction, is written in decimal.
        if self.notation == Notation::Binary && self.nano % NANO == 0 && self.nano.abs() >= 1024 * NANO {
            let (mut value, mut step) = (self.nano / NANO, 0);
            while value % 1024 == 0 && step + 1 < BINARY.len() {
                (value, step) = (value / 1024, step + 1);
            }
            return format!("{value}{}", BINARY[step]);
        }
        let (mut value, mut step) = (self.nano, 0);
        while value % 1000 == 0 && step + 1 < DECIMAL.len() {
            (value, step) = (value / 1000, step + 1);
        }
        match (self.notation, 3 * i64::try_from(step).unwrap_or(0) - 9) {
            (Notation::Exponent, 0) => value.to_string(),
            (Notation::Exponent, exponent) => format!("{value}e{exponent}"),
            _ => format!("{value}{}", DECIMAL[step]),
        }
    }
}

/// Zero, which is what an unset quantity of Go reads as.
pub(super) fn zero() -> Quantity {
    Quantity("0".into())
}

/// An amount in billionths as a decimal quantity.
pub(super) fn format(nano: i128) -> String {
    Amount { nano, notation: Notation::Decimal }.canonical()
}

/// Fields that map names to quantities.
const MAPS: &[&str] = &["limits", "requests", "capacity", "allocatable", "hard", "used", "overhead"];
/// Fields that are a quantity, with the field that they are in.
const FIELDS: &[(&str, &str)] = &[("emptyDir", "sizeLimit"), ("resourceFieldRef", "divisor")];

/// Brings the quantities of an object into their canonical form, as reading and writing it does in Go. Numbers are
/// quantities, too (`cpu: 1`).
///
/// # Errors
/// [`SYNTAX`] for what is no quantity.
pub(super) fn normalize(object: &mut Value) -> Result<(), &'static str> {
    normalize_in("", object)
}

fn normalize_in(parent: &str, value: &mut Value) -> Result<(), &'static str> {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::Object(amounts) if MAPS.contains(&key.as_str()) => {
                        amounts.values_mut().try_for_each(normalize_one)?;
                    }
                    value if FIELDS.contains(&(parent, key.as_str())) => normalize_one(value)?,
                    value => normalize_in(key, value)?,
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| normalize_in(parent, item)),
        _ => Ok(()),
    }
}

fn normalize_one(value: &mut Value) -> Result<(), &'static str> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Ok(()),
    };
    *value = parse(&text).ok_or(SYNTAX)?.canonical().into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_come_back_in_canonical_form() {
        for (given, wanted) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1", "1"),
            ("0", "0"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("512", "512"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("128974848", "128974848"),
            ("1000k", "1M"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("-250m", "-250m"),
            ("0.1n", "1n"),
            (".5", "500m"),
        ] {
            let mut object = json!({"resources": {"limits": {"cpu": given}}});
            normalize(&mut object).unwrap();
            assert_eq!(object["resources"]["limits"]["cpu"], wanted, "{given}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "m", "1.2.3", "1KiB", "1 Gi", "abc", "1e", "--1"] {
            assert_eq!(normalize(&mut json!({"requests": {"memory": text}})), Err(SYNTAX), "{text}");
        }
    }

    #[test]
    fn quantities_are_found_by_their_field() {
        let mut object = json!({
            "data": {"limits": "x", "divisor": "y"},
            "volumes": [{"emptyDir": {"sizeLimit": 1024}}],
            "resources": {"requests": {"cpu": 2}},
        });
        normalize(&mut object).unwrap();
        assert_eq!(object["data"], json!({"limits": "x", "divisor": "y"}));
        assert_eq!(object["volumes"][0]["emptyDir"]["sizeLimit"], "1024");
        assert_eq!(object["resources"]["requests"]["cpu"], "2");
    }

    #[test]
    fn notations_compare_by_value() {
        let nano = |text: &str| parse(text).unwrap().nano;
        assert_eq!(nano("1"), nano("1000m"));
        assert!(nano("1Gi") > nano("1G"));
        assert!(nano("999m") < nano("1"));
    }
}
