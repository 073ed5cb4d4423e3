#![no_main]
//! The frames between guest and host, in both directions: how the bytes are cut must not matter.

use guest_api::report::{Command, Decoder, FrameError, Report};
use libfuzzer_sys::fuzz_target;

macro_rules! check {
    ($message:ty, $data:expr, $step:expr) => {{
        let pop_all =
            |decoder: &mut Decoder<$message>, found: &mut Vec<$message>| -> Result<(), FrameError> {
                while let Some(message) = decoder.pop()? {
                    found.push(message);
                }
                Ok(())
            };
        let (mut whole, mut all) = (Decoder::<$message>::new(), Vec::new());
        whole.push($data);
        let at_once = pop_all(&mut whole, &mut all);
        let (mut cut, mut pieces, mut in_pieces) = (Decoder::<$message>::new(), Vec::new(), Ok(()));
        for piece in $data.chunks($step) {
            cut.push(piece);
            in_pieces = pop_all(&mut cut, &mut pieces);
            if in_pieces.is_err() {
                break;
            }
        }
        assert_eq!(all, pieces);
        assert_eq!(at_once.is_err(), in_pieces.is_err());
    }};
}

fuzz_target!(|data: &[u8]| {
    let [step, data @ ..] = data else { return };
    let step = usize::from(*step).max(1);
    check!(Report, data, step);
    check!(Command, data, step);
});
