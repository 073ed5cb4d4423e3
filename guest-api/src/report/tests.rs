use proptest::prelude::*;

use super::*;

fn reports() -> impl Strategy<Value = Report> {
    prop_oneof![
        Just(Report::Started),
        Just(Report::Ready),
        any::<i32>().prop_map(|exit_code| Report::Finished { exit_code }),
        any::<i32>().prop_map(|signal| Report::Killed { signal }),
        (prop::sample::select(ErrorCode::ALL), any::<String>())
            .prop_map(|(code, message)| Report::Error { code, message }),
    ]
}

fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![Just(Command::Ack), any::<u32>().prop_map(|grace_ms| Command::Stop { grace_ms })]
}

/// Pushes `bytes` in pieces of the given sizes (the last piece takes the rest) and collects what comes out.
fn decode_in_pieces<M: Message>(bytes: &[u8], pieces: &[usize]) -> (Vec<M>, Option<FrameError>, Decoder<M>) {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    let mut rest = bytes;
    let mut sizes = pieces.iter().copied();
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(sizes.next().unwrap_or(rest.len()).min(rest.len()));
        rest = later;
        decoder.push(piece);
        loop {
            match decoder.pop() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error), decoder),
            }
        }
    }
    (messages, None, decoder)
}

proptest! {
    #[test]
    fn reports_survive_any_fragmentation(sent in prop::collection::vec(reports(), 0..8), pieces in prop::collection::vec(0..9usize, 0..64)) {
        let bytes: Vec<u8> = sent.iter().flat_map(Message::to_frame).collect();
        let (received, error, decoder) = decode_in_pieces::<Report>(&bytes, &pieces);
        prop_assert_eq!(received, sent);
        prop_assert_eq!(error, None);
        prop_assert!(!decoder.is_inside_frame());
    }

    #[test]
    fn commands_survive_any_fragmentation(sent in prop::collection::vec(commands(), 0..8), pieces in prop::collection::vec(0..9usize, 0..64)) {
        let bytes: Vec<u8> = sent.iter().flat_map(Message::to_frame).collect();
        let (received, error, _) = decode_in_pieces::<Command>(&bytes, &pieces);
        prop_assert_eq!(received, sent);
        prop_assert_eq!(error, None);
    }

    #[test]
    fn blocking_read_takes_exactly_one_frame(first in reports(), second in reports()) {
        let mut bytes = first.to_frame();
        bytes.extend(second.to_frame());
        let mut stream = bytes.as_slice();
        prop_assert_eq!(Report::read_from(&mut stream).unwrap(), first);
        prop_assert_eq!(Report::read_from(&mut stream).unwrap(), second);
        prop_assert!(stream.is_empty());
    }

    #[test]
    fn a_cut_frame_is_waited_for_and_is_an_error_at_the_end_of_the_stream(report in reports(), cut in any::<prop::sample::Index>()) {
        let frame = report.to_frame();
        let part = &frame[..cut.index(frame.len())];
        let (received, error, decoder) = decode_in_pieces::<Report>(part, &[]);
        prop_assert!(received.is_empty() && error.is_none());
        prop_assert_eq!(decoder.is_inside_frame(), !part.is_empty());
        prop_assert_eq!(Report::read_from(&mut &part[..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn fixed_bodies_have_exactly_their_size(body in prop::collection::vec(any::<u8>(), 0..64)) {
        for (kind, size) in [(0x01, 0), (0x02, 0), (0x03, 4), (0x04, 4)] {
            let decoded = Report::decode(kind, &body);
            if body.len() == size {
                prop_assert!(decoded.is_ok());
            } else {
                prop_assert_eq!(decoded, Err(FrameError::Body { kind, len: body.len() }));
            }
        }
        for (kind, size) in [(0x81, 0), (0x82, 4)] {
            prop_assert_eq!(Command::decode(kind, &body).is_ok(), body.len() == size);
        }
    }

    #[test]
    fn each_direction_refuses_every_other_kind(kind in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..16)) {
        if !(0x01..=0x05).contains(&kind) {
            prop_assert_eq!(Report::decode(kind, &body), Err(FrameError::Kind(kind)));
        }
        if !(0x81..=0x82).contains(&kind) {
            prop_assert_eq!(Command::decode(kind, &body), Err(FrameError::Kind(kind)));
        }
    }

    #[test]
    fn any_bytes_are_taken_without_panic_and_accepted_ones_are_canonical(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let (messages, error, decoder) = decode_in_pieces::<Report>(&bytes, &[]);
        let again: Vec<u8> = messages.iter().flat_map(Message::to_frame).collect();
        prop_assert!(bytes.starts_with(&again));
        prop_assert!(error.is_none() || decoder.buffer.capacity() == 0);
    }
}

#[test]
fn lengths_outside_the_cap_are_refused_before_any_body_is_there() {
    for length in [0, 65537, u32::MAX] {
        let field = length.to_le_bytes();
        let mut decoder = Decoder::<Report>::new();
        decoder.push(&field);
        assert!(matches!(decoder.pop(), Err(FrameError::Length(l)) if l == length));
        let error = Report::read_from(&mut field.as_slice()).unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::InvalidData,
            "not an end of stream, so no body was asked for"
        );
    }
}

#[test]
fn a_broken_stream_stays_broken_and_holds_nothing() {
    let mut decoder = Decoder::<Report>::new();
    decoder.push(&[1, 0, 0, 0, 0x7f]);
    assert_eq!(decoder.pop(), Err(FrameError::Kind(0x7f)));
    decoder.push(&Report::Started.to_frame());
    assert_eq!(decoder.pop(), Err(FrameError::Kind(0x7f)));
    assert!(!decoder.is_inside_frame());
}

#[test]
fn long_messages_are_cut_between_characters() {
    let message = "ä".repeat(MAX_MESSAGE);
    let frame = Report::Error { code: ErrorCode::Unknown, message: message.clone() }.to_frame();
    assert!(frame.len() <= LENGTH_FIELD + MAX_FRAME);
    let Report::Error { message: received, .. } = Report::read_from(&mut frame.as_slice()).unwrap() else {
        panic!("another report")
    };
    assert_eq!(received.len(), MAX_MESSAGE - MAX_MESSAGE % 2);
    assert!(message.starts_with(&received));
}

#[test]
fn bad_codes_and_bad_text_are_named() {
    assert_eq!(Report::decode(0x05, &[9, 0, 0, 0, b'x']), Err(FrameError::Code(9)));
    assert_eq!(Report::decode(0x05, &[1, 0, 0, 0, 0xff]), Err(FrameError::Text));
    assert_eq!(Report::decode(0x05, &[1, 0, 0]), Err(FrameError::Body { kind: 5, len: 3 }));
}

#[test]
fn frames_are_as_drawn() {
    assert_eq!(Report::Started.to_frame(), [1, 0, 0, 0, 0x01]);
    assert_eq!(Report::Finished { exit_code: -2 }.to_frame(), [5, 0, 0, 0, 0x03, 0xfe, 0xff, 0xff, 0xff]);
    assert_eq!(
        Report::Error { code: ErrorCode::PayloadInvalidConfig, message: "m".into() }.to_frame(),
        [6, 0, 0, 0, 0x05, 3, 0, 0, 0, b'm']
    );
    assert_eq!(Command::Stop { grace_ms: 0x0102 }.to_frame(), [5, 0, 0, 0, 0x82, 2, 1, 0, 0]);
}
