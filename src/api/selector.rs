//! Label and field selectors (`k8s.io/apimachinery/pkg/labels`, `pkg/fields`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::status::ApiError;

/// A parsed label selector; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

impl LabelSelector {
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        Parser { tokens: tokens(text), at: 0 }.selector().map(Self).map_err(ApiError::bad_request)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            let number = || value.and_then(|value| value.parse::<i64>().ok());
            match &requirement.test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Test::Above(bound) => number().is_some_and(|n| n > *bound),
                Test::Below(bound) => number().is_some_and(|n| n < *bound),
            }
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Symbol(symbol) => symbol,
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", ",", "(", ")", "<", ">"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || "=!,()<>".contains(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn found(token: Option<&Token>) -> String {
        format!("found '{}'", token.map_or("", Token::text))
    }

    fn selector(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        while self.peek().is_some() {
            requirements.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
            match self.next() {
                None => break,
                Some(Token::Symbol(",")) if self.peek().is_some() => {}
                Some(Token::Symbol(",")) => return Err("found '', expected: identifier after ','".into()),
                other => return Err(format!("{}, expected: ',' or 'end of string'", Self::found(other.as_ref()))),
            }
        }
        Ok(requirements)
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek() == Some(&Token::Symbol("!"));
        if absent {
            self.at += 1;
        }
        let key = match self.next() {
            Some(Token::Word(key)) => key,
            other => {
                return Err(format!(
                    "{}, expected: !, identifier, or ',' or 'end of string'",
                    Self::found(other.as_ref())
                ));
            }
        };
        let errors = super::names::qualified_name_errors(&key);
        if let Some(error) = errors.first() {
            return Err(format!("key: Invalid value: {key:?}: {error}"));
        }
        if absent {
            return Ok(Requirement { key, test: Test::Absent });
        }
        let test = match self.peek() {
            None | Some(Token::Symbol(",")) => Test::Exists,
            Some(_) => self.operation()?,
        };
        Ok(Requirement { key, test })
    }

    fn operation(&mut self) -> Result<Test, String> {
        let operator = self.next();
        match operator.as_ref().map_or("", Token::text) {
            "=" | "==" => Ok(Test::In(vec![self.value()?])),
            "!=" => Ok(Test::NotIn(vec![self.value()?])),
            "in" => Ok(Test::In(self.values()?)),
            "notin" => Ok(Test::NotIn(self.values()?)),
            ">" | "gt" => self.number().map(Test::Above),
            "<" | "lt" => self.number().map(Test::Below),
            _ => Err(format!("{}, expected: {OPERATORS}", Self::found(operator.as_ref()))),
        }
    }

    /// One value; nothing before a comma or the end is the empty value.
    fn value(&mut self) -> Result<String, String> {
        let value = match self.peek() {
            None | Some(Token::Symbol("," | ")")) => String::new(),
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                word
            }
            other => return Err(format!("{}, expected: identifier", Self::found(other))),
        };
        match super::names::label_value_errors(&value).first() {
            Some(error) => Err(format!("values[0][]: Invalid value: {value:?}: {error}")),
            None => Ok(value),
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        let value = self.value()?;
        value.parse().map_err(|_| {
            format!("values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer")
        })
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Some(Token::Symbol("(")) => {}
            other => return Err(format!("{}, expected: '('", Self::found(other.as_ref()))),
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            match self.next() {
                Some(Token::Symbol(",")) => {}
                Some(Token::Symbol(")")) => return Ok(values),
                other => return Err(format!("{}, expected: ',' or ')'", Self::found(other.as_ref()))),
            }
        }
    }
}

/// A parsed field selector: `(path, must equal, value)`; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Parses `text`, whose paths must be among `supported` (the two metadata fields always are).
    pub fn parse(text: &str, supported: &[&str]) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for term in split_terms(text).into_iter().filter(|term| !term.is_empty()) {
            let (path, equal, value) = split_term(term).ok_or_else(|| {
                ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'"))
            })?;
            let value = unescaped(value).map_err(ApiError::bad_request)?;
            if path != "metadata.name" && path != "metadata.namespace" && !supported.contains(&path) {
                return Err(ApiError::bad_request(format!("field label not supported: {path}")));
            }
            terms.push((path.to_owned(), equal, value));
        }
        Ok(Self(terms))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name that an object must have, when the selector says so: lets a watch look at one key only.
    pub fn name(&self) -> Option<&str> {
        self.0.iter().find(|(path, equal, _)| *equal && path == "metadata.name").map(|(.., value)| value.as_str())
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, equal, wanted)| (field(object, path) == *wanted) == *equal)
    }
}

/// The terms between commas; one that is escaped with a backslash is part of a value.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// Path, whether it must be equal, and value, at the first operator.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    term.char_indices().find_map(|(at, _)| {
        let (path, rest) = term.split_at(at);
        let operators = [("!=", false), ("==", true), ("=", true)];
        operators.into_iter().find_map(|(operator, equal)| Some((path, equal, rest.strip_prefix(operator)?)))
    })
}

/// A value without its escapes: a backslash stands before a backslash, a comma and an equals sign.
fn unescaped(value: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(value.len());
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(format!("invalid field selector: invalid escape sequence: {sequence}"));
                }
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            c => plain.push(c),
        }
    }
    Ok(plain)
}

/// A field's value as selectors see it: strings as they are, booleans and numbers as text, absent as empty.
fn field(object: &Value, path: &str) -> String {
    let value = path.split('.').try_fold(object, |value, part| value.get(part));
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        _ if matches!(path, "spec.unschedulable" | "spec.hostNetwork") => "false".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn label_selectors_of_every_form() {
        let object = labels(&[("tier", "x"), ("n", "5"), ("empty", "")]);
        for yes in [
            "",
            "tier",
            "tier=x",
            "tier==x",
            "tier!=y",
            "!gone",
            "tier in (x,y)",
            "tier notin (y)",
            "n>4",
            "n gt 4",
            "n<6",
            "gone!=z",
            "empty=",
            "tier=x,n=5",
            " tier = x , n ",
        ] {
            assert!(LabelSelector::parse(yes).unwrap().matches(&object), "{yes}");
        }
        for no in ["gone", "tier=y", "tier!=x", "!tier", "tier in (y)", "tier notin (x)", "n>5", "n<5", "tier=x,n=6"] {
            assert!(!LabelSelector::parse(no).unwrap().matches(&object), "{no}");
        }
    }

    #[test]
    fn label_selector_errors_name_what_was_found() {
        let error = LabelSelector::parse("a b c").unwrap_err();
        assert_eq!(error.message, "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        for bad in ["a in", "a in (b", "a,", "=x", "a>b", "a = b c"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        let supported = &["spec.nodeName", "status.phase"];
        for (text, expected) in [
            ("metadata.name=a", true),
            ("spec.nodeName!=n1", false),
            ("status.phase==Running,metadata.name=a", true),
            ("spec.nodeName=", false),
        ] {
            assert_eq!(FieldSelector::parse(text, supported).unwrap().matches(&pod), expected, "{text}");
        }
        assert_eq!(
            FieldSelector::parse("spec.ports=a", supported).unwrap_err().message,
            "field label not supported: spec.ports"
        );
        assert_eq!(FieldSelector::parse("metadata.name=a", supported).unwrap().name(), Some("a"));
    }

    #[test]
    fn field_selector_values_are_escaped() {
        let selector = FieldSelector::parse(r"metadata.name=a\,b\=c\\,metadata.namespace!=x", &[]).unwrap();
        assert!(selector.matches(&json!({"metadata": {"name": r"a,b=c\"}})));
        for (bad, error) in [
            ("metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
            (r"metadata.name=a\b", r"invalid field selector: invalid escape sequence: \b"),
            ("metadata.name=a=b", "invalid field selector: unescaped character in value: ="),
        ] {
            assert_eq!(FieldSelector::parse(bad, &[]).unwrap_err().message, error);
        }
    }
}
