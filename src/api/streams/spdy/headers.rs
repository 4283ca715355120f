//! The block of headers in a SPDY frame: pairs with their lengths, compressed by zlib with a dictionary of the protocol,
//! in one state per direction for the life of a connection.

use std::io;
use std::sync::LazyLock;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::invalid;

/// What one block may expand to.
const LIMIT: usize = 64 * 1024;
/// Room for one step of (de)compression.
const STEP: usize = 4096;

/// The dictionary begins with these words, each with its length in front.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// And ends with this text.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
    Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
    Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
    application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859\
    -1,utf-,*,enq=0.";

pub(super) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for word in WORDS.split(' ') {
        // The words are shorter than 256 bytes.
        all.extend_from_slice(&[0, 0, 0, word.len() as u8]);
        all.extend(word.bytes().map(|byte| if byte == b'_' { b' ' } else { byte }));
    }
    all.extend_from_slice(TAIL.as_bytes());
    all
});

/// Pairs of lower-case name and value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of a header, empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// Reads the blocks of one direction.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub fn headers(&mut self, block: &[u8]) -> io::Result<Headers> {
        parse(self.expand(block)?)
    }

    fn expand(&mut self, mut block: &[u8]) -> io::Result<Bytes> {
        let mut plain = Vec::new();
        loop {
            if plain.len() > LIMIT {
                return Err(invalid("headers of more than 64 KiB"));
            }
            plain.reserve(STEP);
            let (taken, given) = (self.0.total_in(), plain.len());
            let result = self.0.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            // What was taken is less than the block.
            block = &block[(self.0.total_in() - taken) as usize..];
            match result {
                Ok(Status::StreamEnd) => return Err(invalid("headers' compression ended")),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| invalid("another dictionary of headers"))?;
                    continue;
                }
                Err(error) => return Err(invalid(format!("headers: {error}"))),
            }
            // All is read, and there was room for more than came.
            if block.is_empty() && plain.len() < plain.capacity() {
                return Ok(plain.into());
            }
            if plain.len() == given && self.0.total_in() == taken {
                return Err(invalid("headers that do not end"));
            }
        }
    }
}

fn parse(mut plain: Bytes) -> io::Result<Headers> {
    let short = |_| invalid("short headers");
    let count = plain.try_get_u32().map_err(short)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let mut text = || {
            let length = plain.try_get_u32().map_err(short)? as usize;
            if length > plain.len() {
                return Err(invalid("short headers"));
            }
            String::from_utf8(plain.split_to(length).to_vec()).map_err(|_| invalid("headers that are no text"))
        };
        let (name, value) = (text()?, text()?);
        headers.push((name.to_ascii_lowercase(), value));
    }
    Ok(Headers(headers))
}

/// Writes the blocks of one direction.
pub(super) struct Deflater {
    compress: Compress,
    begun: bool,
}

impl Deflater {
    pub fn new() -> Self {
        Self { compress: Compress::new(Compression::default(), true), begun: false }
    }

    pub fn put(&mut self, headers: &Headers, output: &mut BytesMut) -> io::Result<()> {
        if !self.begun {
            self.compress.set_dictionary(&DICTIONARY).map_err(io::Error::other)?;
            self.begun = true;
        }
        let mut plain = Vec::new();
        let length = |length: usize| u32::try_from(length).map_err(|_| invalid("headers of more than 4 GiB"));
        plain.put_u32(length(headers.0.len())?);
        for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(length(text.len())?);
            plain.put_slice(text.as_bytes());
        }
        let (mut rest, mut packed) = (plain.as_slice(), Vec::new());
        loop {
            packed.reserve(STEP);
            let taken = self.compress.total_in();
            self.compress.compress_vec(rest, &mut packed, FlushCompress::Sync).map_err(io::Error::other)?;
            rest = &rest[(self.compress.total_in() - taken) as usize..];
            if rest.is_empty() && packed.len() < packed.capacity() {
                output.put_slice(&packed);
                return Ok(());
            }
        }
    }
}
