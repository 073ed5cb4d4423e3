//! The frames of the report connection between the payload manager (PID 1 of the guest) and the host.
//!
//! ```text
//!   frame    u32 LE length of the rest, 1..=65536 | u8 kind | body
//!
//!   guest -> host (Report)                     host -> guest (Command)
//!   0x01 Started                               0x81 Ack
//!   0x02 Ready                                 0x82 Stop      u32 LE grace in ms
//!   0x03 Finished  i32 LE exit code
//!   0x04 Killed    i32 LE signal
//!   0x05 Error     i32 LE code | message, UTF-8
//! ```
//!
//! Each report but `Ready` is answered by one `Ack`, and the guest waits for it: the payload is launched only after `Started`
//! was acknowledged, the VM is reset only after its last report was. `Stop` may come at any time.
//!
//! Trust: neither side believes the other. The length is checked against [`MAX_FRAME`] before a byte is stored for it, a
//! body must have exactly the size of its kind, and unknown kinds and codes are errors: both programs come from one build.
//! A message is text from inside the VM; whoever prints it escapes control characters.

use std::io::{self, Read, Write};
use std::marker::PhantomData;

use crate::codes::ErrorCode;

#[cfg(test)]
mod tests;

/// The largest value of a frame's length field, in bytes: kind and body.
pub const MAX_FRAME: usize = 65536;

/// The longest message of [`Report::Error`], in bytes; a longer one is cut when it is encoded.
pub const MAX_MESSAGE: usize = MAX_FRAME - 1 - 4;

const LENGTH_FIELD: usize = 4;

/// What the guest tells the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Everything is verified; the payload is launched once this was acknowledged.
    Started,
    /// The payload is ready to serve. Not acknowledged.
    Ready,
    /// The payload has ended by itself.
    Finished {
        /// Its exit code.
        exit_code: i32,
    },
    /// The payload was ended by a signal.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// The payload could not be run.
    Error {
        /// What kind of error.
        code: ErrorCode,
        /// What failed, for people. At most [`MAX_MESSAGE`] bytes travel.
        message: String,
    },
}

/// What the host tells the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The last report was taken.
    Ack,
    /// End the payload: SIGTERM now, SIGKILL after the grace.
    Stop {
        /// The time between the two signals, in milliseconds.
        grace_ms: u32,
    },
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is 0 or above [`MAX_FRAME`].
    #[error("frame of {0} bytes: a frame has 1 to {MAX_FRAME}")]
    Length(u32),
    /// No message has this kind, or it travels in the other direction.
    #[error("unknown frame kind {0:#04x}")]
    Kind(u8),
    /// The body is shorter or longer than its kind's.
    #[error("frame of kind {kind:#04x} with a body of {len} bytes")]
    Body {
        /// The kind.
        kind: u8,
        /// The body's size in bytes.
        len: usize,
    },
    /// An error report with a code that does not exist.
    #[error("unknown error code {0}")]
    Code(i32),
    /// An error report whose message is not UTF-8.
    #[error("the message is not UTF-8")]
    Text,
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// A message that travels in frames: [`Report`] or [`Command`].
pub trait Message: Sized {
    /// Appends the whole frame to `out`.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads one message from what follows a frame's length field.
    ///
    /// # Errors
    /// Any [`FrameError`] but `Length`.
    fn decode(kind: u8, body: &[u8]) -> Result<Self, FrameError>;

    /// The whole frame.
    #[must_use]
    fn to_frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        self.encode(&mut frame);
        frame
    }

    /// Writes the frame with a single `write_all`.
    ///
    /// # Errors
    /// Those of the stream.
    fn write_to(&self, stream: &mut impl Write) -> io::Result<()> {
        stream.write_all(&self.to_frame())
    }

    /// Reads exactly one frame, blocking. Memory is reserved only after the length was checked.
    ///
    /// # Errors
    /// Those of the stream; `InvalidData` with a [`FrameError`] inside.
    fn read_from(stream: &mut impl Read) -> io::Result<Self> {
        let mut field = [0; LENGTH_FIELD];
        stream.read_exact(&mut field)?;
        let mut frame = vec![0; checked_length(field)?];
        stream.read_exact(&mut frame)?;
        let (kind, body) = frame.split_first().ok_or(FrameError::Length(0))?;
        Ok(Self::decode(*kind, body)?)
    }
}

impl Message for Report {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Started => push_frame(out, 0x01, &[]),
            Self::Ready => push_frame(out, 0x02, &[]),
            Self::Finished { exit_code } => push_frame(out, 0x03, &[&exit_code.to_le_bytes()]),
            Self::Killed { signal } => push_frame(out, 0x04, &[&signal.to_le_bytes()]),
            Self::Error { code, message } => {
                let text = &message[..message.floor_char_boundary(MAX_MESSAGE)];
                push_frame(out, 0x05, &[&code.number().to_le_bytes(), text.as_bytes()]);
            }
        }
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Self, FrameError> {
        match kind {
            0x01 => fixed(kind, body).map(|[]: [u8; 0]| Self::Started),
            0x02 => fixed(kind, body).map(|[]: [u8; 0]| Self::Ready),
            0x03 => fixed(kind, body).map(|bytes| Self::Finished { exit_code: i32::from_le_bytes(bytes) }),
            0x04 => fixed(kind, body).map(|bytes| Self::Killed { signal: i32::from_le_bytes(bytes) }),
            0x05 => {
                let (code, text) =
                    body.split_first_chunk().ok_or(FrameError::Body { kind, len: body.len() })?;
                let code = ErrorCode::try_from(i32::from_le_bytes(*code))
                    .map_err(|unknown| FrameError::Code(unknown.0))?;
                let message = str::from_utf8(text).map_err(|_| FrameError::Text)?.to_owned();
                Ok(Self::Error { code, message })
            }
            _ => Err(FrameError::Kind(kind)),
        }
    }
}

impl Message for Command {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ack => push_frame(out, 0x81, &[]),
            Self::Stop { grace_ms } => push_frame(out, 0x82, &[&grace_ms.to_le_bytes()]),
        }
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Self, FrameError> {
        match kind {
            0x81 => fixed(kind, body).map(|[]: [u8; 0]| Self::Ack),
            0x82 => fixed(kind, body).map(|bytes| Self::Stop { grace_ms: u32::from_le_bytes(bytes) }),
            _ => Err(FrameError::Kind(kind)),
        }
    }
}

/// Takes the bytes of a stream in pieces of any size and gives the messages in them.
///
/// Call [`pop`](Self::pop) until it gives none after each [`push`](Self::push); then never more than one frame is held back.
/// After an error the stream has no frames any more: every later `pop` gives the same error, and bytes are dropped.
#[derive(Debug)]
pub struct Decoder<M> {
    buffer: Vec<u8>,
    taken: usize,
    broken: Option<FrameError>,
    message: PhantomData<fn() -> M>,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Self { buffer: Vec::new(), taken: 0, broken: None, message: PhantomData }
    }
}

impl<M: Message> Decoder<M> {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; none when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`] as soon as the bytes that are there cannot be a frame, which for a bad length is before its body came.
    pub fn pop(&mut self) -> Result<Option<M>, FrameError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let result = self.next_frame();
        if let Err(error) = result {
            self.broken = Some(error);
            self.buffer = Vec::new();
            self.taken = 0;
        }
        result
    }

    /// Whether bytes of an unfinished frame are waiting: a stream that ends now was cut.
    #[must_use]
    pub fn is_inside_frame(&self) -> bool {
        self.taken < self.buffer.len()
    }

    fn next_frame(&mut self) -> Result<Option<M>, FrameError> {
        let Some((field, rest)) = self.buffer[self.taken..].split_first_chunk() else {
            return Ok(None);
        };
        let length = checked_length(*field)?;
        let Some((kind, body)) = rest.get(..length).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        let message = M::decode(*kind, body)?;
        self.taken += LENGTH_FIELD + length;
        Ok(Some(message))
    }
}

fn checked_length(field: [u8; LENGTH_FIELD]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(field);
    match usize::try_from(length) {
        Ok(bytes) if (1..=MAX_FRAME).contains(&bytes) => Ok(bytes),
        _ => Err(FrameError::Length(length)),
    }
}

/// The body of a kind that has a fixed size.
fn fixed<const N: usize>(kind: u8, body: &[u8]) -> Result<[u8; N], FrameError> {
    body.try_into().map_err(|_| FrameError::Body { kind, len: body.len() })
}

fn push_frame(out: &mut Vec<u8>, kind: u8, body: &[&[u8]]) {
    let length = 1 + body.iter().map(|part| part.len()).sum::<usize>();
    let length = u32::try_from(length).expect("bodies are cut to MAX_FRAME");
    out.extend_from_slice(&length.to_le_bytes());
    out.push(kind);
    for part in body {
        out.extend_from_slice(part);
    }
}
