use super::*;

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

fn hex(text: &str) -> BytesMut {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Everything that a decoder makes of these bytes, fed in pieces of this size.
fn frames(bytes: &[u8], piece: usize) -> io::Result<Vec<Frame>> {
    let (mut codec, mut buffer, mut all) = (Codec::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        while let Some(frame) = codec.decode(&mut buffer)? {
            all.push(frame);
        }
    }
    Ok(all)
}

#[test]
fn dictionary_is_the_protocols() {
    // The checksum that every compressed block of SPDY/3 begins with, behind two bytes of zlib's.
    let mut packed = BytesMut::new();
    headers::Deflater::new().put(&Headers::default(), &mut packed).unwrap();
    assert_eq!(headers::DICTIONARY.len(), 1423);
    assert_eq!(packed[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
}

/// Recorded from kubectl 1.32: the streams of a port-forward, as Go's library writes them.
const RECORDED: &str = include_str!("../../../../tests/data/spdy/port-forward.hex");

#[test]
fn recorded_frames_are_read_whatever_the_pieces() {
    let bytes = hex(RECORDED);
    let all = frames(&bytes, bytes.len()).unwrap();
    let opened: Vec<(u32, &str, &str)> = all
        .iter()
        .filter_map(|frame| match frame {
            Frame::SynStream { stream, headers, .. } => Some((*stream, headers.get("streamtype"), headers.get("port"))),
            _ => None,
        })
        .collect();
    assert_eq!(opened, [(1, "error", "80"), (3, "data", "80")]);
    assert!(all.contains(&Frame::Data { stream: 1, bytes: Bytes::new(), fin: true }), "{all:?}");
    let requests = |all: &[Frame]| -> Vec<u8> {
        let data = all.iter().filter_map(|frame| match frame {
            Frame::Data { stream: 3, bytes, .. } => Some(bytes.to_vec()),
            _ => None,
        });
        data.flatten().collect()
    };
    assert!(requests(&all).starts_with(b"GET / HTTP/1.1\r\n"), "{all:?}");
    for piece in [1, 2, 7, 100] {
        assert_eq!(requests(&frames(&bytes, piece).unwrap()), requests(&all));
    }
}

#[test]
fn what_is_written_is_read_again_with_its_compression_going_on() {
    let sent = [
        Frame::SynStream { stream: 1, headers: headers(&[("streamtype", "error"), ("port", "80")]), fin: false },
        Frame::SynReply { stream: 1, headers: Headers::default(), fin: false },
        Frame::SynStream { stream: 3, headers: headers(&[("streamtype", "data"), ("port", "80")]), fin: true },
        Frame::Data { stream: 3, bytes: Bytes::from_static(b"hello"), fin: false },
        Frame::Data { stream: 3, bytes: Bytes::new(), fin: true },
        Frame::Ping(7),
        Frame::Reset { stream: 1, status: REFUSED_STREAM },
        Frame::GoAway { last_stream: 3, status: 0 },
    ];
    let (mut codec, mut bytes) = (Codec::default(), BytesMut::new());
    for frame in &sent {
        codec.encode(frame.clone(), &mut bytes).unwrap();
    }
    assert_eq!(frames(&bytes, bytes.len()).unwrap(), sent);
    assert!(codec.encode(Frame::Other(4), &mut bytes).is_err());
}

#[test]
fn long_data_comes_in_parts_as_it_arrives() {
    let mut bytes = hex("00000005 01ffffff");
    bytes.extend_from_slice(&vec![b'x'; (1 << 24) - 1]);
    let (mut codec, mut buffer, mut sum) = (Codec::default(), BytesMut::new(), 0);
    for piece in bytes.chunks(100_000) {
        buffer.extend_from_slice(piece);
        while let Some(Frame::Data { stream: 5, bytes, fin }) = codec.decode(&mut buffer).unwrap() {
            assert!(bytes.len() <= PART);
            sum += bytes.len();
            assert_eq!(fin, sum == (1 << 24) - 1);
        }
        // Nothing waits for the frame's end.
        assert!(buffer.is_empty());
    }
    assert_eq!(sum, (1 << 24) - 1);
}

#[test]
fn malformed_frames_are_refused() {
    for (what, bytes) in [
        ("data for stream 0", "00000000 00000001 61"),
        ("version 2", "80020006 00000004 00000001"),
        ("long control frame", "80030006 00ffffff 00000001"),
        ("short ping", "80030006 00000002 0000"),
        ("short SYN_STREAM", "80030001 00000004 00000001"),
        ("SYN_STREAM of stream 0", "80030001 0000000a 00000000 00000000 0000"),
        ("SYN_STREAM without headers", "80030001 0000000a 00000001 00000000 0000"),
        ("headers that zlib does not know", "80030001 0000000e 00000001 00000000 0000 deadbeef"),
        ("short RST_STREAM", "80030003 00000004 00000001"),
        ("short GOAWAY", "80030007 00000004 00000001"),
    ] {
        let bytes = hex(bytes);
        assert!(frames(&bytes, bytes.len()).is_err(), "{what}");
    }
    assert_eq!(frames(&hex("80030009 00000008 00000001 00001000"), 3).unwrap(), [Frame::Other(9)]);
    assert_eq!(frames(&hex("80030006 00000004"), 3).unwrap(), []);
}

/// A block that expands without end, and one whose pairs are said to be more than there are.
#[test]
fn headers_are_bounded() {
    let block = |plain: &[u8]| {
        let mut compress = flate2::Compress::new(flate2::Compression::best(), true);
        compress.set_dictionary(&headers::DICTIONARY).unwrap();
        let mut packed = Vec::with_capacity(plain.len() + 1000);
        compress.compress_vec(plain, &mut packed, flate2::FlushCompress::Sync).unwrap();
        packed
    };
    let mut inflate = headers::Inflater::new();
    let error = inflate.headers(&block(&vec![0; 50 << 20])).unwrap_err();
    assert_eq!(error.to_string(), "headers of more than 64 KiB");
    for plain in [
        &[0xff, 0xff, 0xff, 0xff][..],
        &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 1],
        &[0, 0],
        b"\0\0\0\x01\0\0\0\x01\xff\0\0\0\0",
    ] {
        assert!(headers::Inflater::new().headers(&block(plain)).is_err(), "{plain:?}");
    }
}

proptest::proptest! {
    /// Whatever comes: an error or frames, and never more kept than came.
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400), piece in 1_usize..50) {
        let _ = frames(&bytes, piece);
        // Behind a head that is right, so that bodies are tried, too.
        for kind in 1..10 {
            let mut framed = vec![0x80, 3, 0, kind, 0, 0, 0, bytes.len().min(255) as u8];
            framed.extend_from_slice(&bytes);
            let _ = frames(&framed, piece);
        }
    }
}
