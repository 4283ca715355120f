//! Links in HTML that comes through a proxy: absolute paths get the proxy's path in front, as the API server does it.
//!
//! The page is passed on tag by tag as it arrives; everything but the values of links stays byte for byte as it is.

/// Tags longer than this are left as they are.
const TAG: usize = 64 * 1024;

/// Elements and their attributes that hold a URL.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is no markup.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// Rewrites a page that comes in pieces.
pub(super) struct Rewriter<F> {
    rewrite: F,
    /// What is not decided yet: the beginning of a tag.
    pending: Vec<u8>,
    within: Within,
}

#[derive(Clone, Copy)]
enum Within {
    Markup,
    Comment,
    /// Until the end tag of this element.
    Raw(&'static str),
}

impl<F: Fn(&str) -> Option<String>> Rewriter<F> {
    /// `rewrite` gives the URL to have in place of one, where that is another.
    pub fn new(rewrite: F) -> Self {
        Self { rewrite, pending: Vec::new(), within: Within::Markup }
    }

    /// The next piece, as far as it is decided.
    pub fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(piece);
        let pending = std::mem::take(&mut self.pending);
        let mut out = Vec::with_capacity(pending.len() + 64);
        let mut rest = pending.as_slice();
        while !rest.is_empty() {
            let decided = match self.within {
                Within::Comment => self.skip(rest, b"-->", &mut out),
                Within::Raw(element) => self.skip(rest, format!("</{element}").as_bytes(), &mut out),
                Within::Markup => self.markup(rest, &mut out),
            };
            match decided {
                Some(length) => rest = &rest[length..],
                None => break,
            }
        }
        self.pending = rest.to_vec();
        out
    }

    /// What was held back.
    pub fn end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    /// Passes everything on to the end of what is no markup.
    fn skip(&mut self, text: &[u8], end: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let found = text.windows(end.len()).position(|window| window.eq_ignore_ascii_case(end));
        // Without an end, so much is held back as may be the end's beginning.
        let length = found.unwrap_or((text.len() + 1).saturating_sub(end.len()));
        if found.is_some() {
            self.within = Within::Markup;
        }
        out.extend_from_slice(&text[..length]);
        (found.is_some() || length > 0).then_some(length)
    }

    /// Passes on text up to a tag, or a tag.
    fn markup(&mut self, text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let Some(open) = text.iter().position(|byte| *byte == b'<') else {
            out.extend_from_slice(text);
            return Some(text.len());
        };
        if open > 0 {
            out.extend_from_slice(&text[..open]);
            return Some(open);
        }
        if text.len() < 4 && b"<!--".starts_with(text) {
            return None;
        }
        if text.starts_with(b"<!--") {
            self.within = Within::Comment;
            out.extend_from_slice(b"<!--");
            return Some(4);
        }
        let Some(end) = tag_end(text) else {
            if text.len() < TAG {
                return None;
            }
            out.extend_from_slice(text);
            return Some(text.len());
        };
        let tag = &text[..end];
        let name: String = tag[1..]
            .iter()
            .take_while(|b| b.is_ascii_alphanumeric())
            .map(|b| char::from(b.to_ascii_lowercase()))
            .collect();
        match LINKS.iter().find(|(element, _)| *element == name) {
            Some((element, attributes)) => self.attributes(tag, 1 + element.len(), attributes, out),
            None => out.extend_from_slice(tag),
        }
        if let Some(element) = RAW.iter().find(|element| **element == name) {
            self.within = Within::Raw(element);
        }
        Some(end)
    }

    /// Passes on a tag with its links rewritten.
    fn attributes(&self, tag: &[u8], from: usize, wanted: &[&str], out: &mut Vec<u8>) {
        let mut done = 0;
        let mut at = from;
        let skip = |mut at: usize, while_: &dyn Fn(u8) -> bool| {
            while at < tag.len() && while_(tag[at]) {
                at += 1;
            }
            at
        };
        while at < tag.len() {
            let name = skip(at, &|b| b.is_ascii_whitespace() || b == b'/');
            let name_end = skip(name, &|b| !b.is_ascii_whitespace() && !b"=/>".contains(&b));
            let equals = skip(name_end, &|b| b.is_ascii_whitespace());
            if tag.get(equals) != Some(&b'=') {
                at = equals.max(name + 1);
                continue;
            }
            let value = skip(equals + 1, &|b| b.is_ascii_whitespace());
            let (start, end) = match tag.get(value) {
                Some(quote @ (b'"' | b'\'')) => (value + 1, skip(value + 1, &|b| b != *quote)),
                _ => (value, skip(value, &|b| !b.is_ascii_whitespace() && b != b'>')),
            };
            at = end + 1;
            let is_wanted = wanted.iter().any(|wanted| tag[name..name_end].eq_ignore_ascii_case(wanted.as_bytes()));
            let url = std::str::from_utf8(&tag[start..end.max(start)]).ok().filter(|_| is_wanted);
            if let Some(new) = url.and_then(|url| (self.rewrite)(url)) {
                out.extend_from_slice(&tag[done..start]);
                out.extend_from_slice(new.as_bytes());
                done = end;
            }
        }
        out.extend_from_slice(&tag[done..]);
    }
}

/// Behind the `>` that ends a tag; one inside of quotes does not.
fn tag_end(tag: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in tag.iter().enumerate() {
        match (quote, *byte) {
            (None, b'>') => return Some(at + 1),
            // A quote begins a value and is nothing special elsewhere.
            (None, b'"' | b'\'') if tag[..at].iter().rev().find(|b| !b.is_ascii_whitespace()) == Some(&b'=') => {
                quote = Some(*byte);
            }
            (Some(open), byte) if byte == open => quote = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(page: &str, piece: usize) -> String {
        let absolute = |url: &str| url.starts_with('/').then(|| format!("/proxy{url}"));
        let mut rewriter = Rewriter::new(absolute);
        let mut out: Vec<u8> = page.as_bytes().chunks(piece).flat_map(|piece| rewriter.feed(piece)).collect();
        out.extend(rewriter.end());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn links_are_rewritten_and_nothing_else() {
        for (page, expected) in [
            (r#"<a href="/x">y</a>"#, r#"<a href="/proxy/x">y</a>"#),
            ("<A HREF = '/x' class=b>", "<A HREF = '/proxy/x' class=b>"),
            ("<img src=/x.png alt=/y>", "<img src=/proxy/x.png alt=/y>"),
            (r#"<img alt="a > b" src="/x"/>"#, r#"<img alt="a > b" src="/proxy/x"/>"#),
            ("<a href='x'><a href='#y'><a>", "<a href='x'><a href='#y'><a>"),
            (r#"<p href="/x">1 < 2 <a"#, r#"<p href="/x">1 < 2 <a"#),
            (r#"<!-- <a href="/x"> --><a href="/y">"#, r#"<!-- <a href="/x"> --><a href="/proxy/y">"#),
            (
                r#"<script src="/s.js">if (a<b) x='<a href="/x">'</SCRIPT><a href="/y">"#,
                r#"<script src="/proxy/s.js">if (a<b) x='<a href="/x">'</SCRIPT><a href="/proxy/y">"#,
            ),
            ("<form action=\"/ü\" method=post>", "<form action=\"/proxy/ü\" method=post>"),
            ("<video poster='/p' src='/v'>", "<video poster='/proxy/p' src='/proxy/v'>"),
            ("<!DOCTYPE html><p>it's</p><a href='/x'>", "<!DOCTYPE html><p>it's</p><a href='/proxy/x'>"),
        ] {
            for piece in [1, 2, 3, 5, 1000] {
                assert_eq!(rewritten(page, piece), expected, "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn tag_without_end_is_bounded() {
        let page = format!("<a href=\"{}", "x".repeat(3 * TAG));
        let mut rewriter = Rewriter::new(|_: &str| None);
        let mut out = Vec::new();
        for piece in page.as_bytes().chunks(1000) {
            out.extend(rewriter.feed(piece));
            assert!(rewriter.pending.len() <= TAG);
        }
        out.extend(rewriter.end());
        assert_eq!(out, page.as_bytes());
    }

    proptest::proptest! {
        #[test]
        fn pages_come_through_whole(page in "[<>a-c=\"'/ !-]{0,60}", piece in 1_usize..9) {
            let mut rewriter = Rewriter::new(|_: &str| None);
            let mut out: Vec<u8> = page.as_bytes().chunks(piece).flat_map(|piece| rewriter.feed(piece)).collect();
            out.extend(rewriter.end());
            proptest::prop_assert_eq!(out, page.as_bytes());
        }
    }
}
