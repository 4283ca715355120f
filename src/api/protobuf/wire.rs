//! Protobuf's wire format: fields as a number and a value, borrowed from the message.
//!
//! Lengths are compared with what is left of the message before anything is made of them, so that nothing is allocated
//! for a length that lies. Groups, which no Kubernetes message has, are refused.

use super::Error;

const LARGEST_FIELD: u64 = (1 << 29) - 1;

/// The value of a field, as the wire has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire<'a> {
    Varint(u64),
    /// Doubles, as their bits.
    Fixed64(u64),
    /// Floats and fixed-size integers of 32 bits, which no field of the table has: only ever skipped.
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub fn double(self) -> Option<f64> {
        match self {
            Self::Fixed64(bits) => Some(f64::from_bits(bits)),
            _ => None,
        }
    }

    pub fn varint(self) -> Option<u64> {
        match self {
            Self::Varint(number) => Some(number),
            _ => None,
        }
    }
}

/// Reads a message field by field.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field's number and value; `None` at the message's end.
    pub fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..=LARGEST_FIELD).contains(&u64::from(*number)));
        let number = number.ok_or(Error::FieldNumber)?;
        let value = match (tag & 7) as u8 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.fixed()?),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(usize::try_from(length).map_err(|_| Error::Truncated)?)?)
            }
            5 => self.take(4).map(|_| Wire::Fixed32)?,
            other => return Err(Error::WireType(other)),
        };
        Ok(Some((number, value)))
    }

    /// A base-128 number, least significant group first.
    pub fn varint(&mut self) -> Result<u64, Error> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Error::Truncated)?;
            self.rest = rest;
            // The tenth byte has room for one bit.
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Error::LongNumber)
    }

    /// Eight bytes, least significant first.
    fn fixed(&mut self) -> Result<u64, Error> {
        let (&bytes, rest) = self.rest.split_first_chunk().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(bytes))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(message: &[u8]) -> Result<Vec<(u32, Wire<'_>)>, Error> {
        let mut reader = Reader::new(message);
        let mut fields = Vec::new();
        while let Some(field) = reader.next()? {
            fields.push(field);
        }
        Ok(fields)
    }

    #[test]
    fn every_wire_type_in_use_is_read_or_skipped() {
        let message = b"\x08\x96\x01\x11\x01\x02\x03\x04\x05\x06\x07\x08\x1a\x02hi\x25\x01\x02\x03\x04\x98\x06\x05";
        let expected = vec![
            (1, Wire::Varint(150)),
            (2, Wire::Fixed64(0x0807_0605_0403_0201)),
            (3, Wire::Bytes(b"hi")),
            (4, Wire::Fixed32),
            (99, Wire::Varint(5)),
        ];
        assert_eq!(fields(message), Ok(expected));
        assert_eq!(fields(b""), Ok(vec![]));
    }

    #[test]
    fn negative_numbers_take_ten_bytes() {
        let message = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(fields(message), Ok(vec![(1, Wire::Varint(u64::MAX))]));
    }

    #[test]
    fn malformed_fields_are_refused() {
        let cases: [(&[u8], Error); 10] = [
            (b"\x08", Error::Truncated),
            (b"\x08\x80", Error::Truncated),
            (b"\x0d\x01\x02\x03", Error::Truncated),
            (b"\x09\x01\x02\x03\x04\x05\x06\x07", Error::Truncated),
            (b"\x0a\x05hi", Error::Truncated),
            // Lengths of 2^63 and 2^64-1.
            (b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01hi", Error::Truncated),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01hi", Error::Truncated),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", Error::LongNumber),
            (b"\x00\x01", Error::FieldNumber),
            (b"\x0b\x0c", Error::WireType(3)),
        ];
        for (message, error) in cases {
            assert_eq!(fields(message), Err(error), "{message:x?}");
        }
    }
}
