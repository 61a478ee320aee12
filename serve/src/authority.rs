//! Clients that are given several addresses, and name all of them in `:authority`.
//!
//! Go's library joins them with `;`, Python's with `,`. With two ports that is no authority, and the implementation of HTTP/2
//! resets every such call before anybody sees it. So the first header block of a connection is looked at here. Only if it names
//! a list, the header blocks of that connection are written anew, with the first address of the list; what all other clients
//! send is handed on as it is.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::uri::Authority;
use loona_hpack::decoder::DecoderError;
use loona_hpack::{Decoder, Encoder};
use tokio::io::{AsyncRead, ReadBuf};

use crate::connection::{FRAME_BYTES_MAX, HEADER_LIST_BYTES_MAX};

// RFC 9113, 4.1, 6.2 and 6.10.
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// How HTTP/2 begins, and how nobody here changes it. RFC 9113, 6.5.2.
const TABLE_BYTES: usize = 4096;
/// What counts for a field beside its name and its value. RFC 9113, 6.5.2.
const FIELD_BYTES: usize = 32;
/// Of a header block with the frames around it.
const BLOCK_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX as usize;

/// Frames on their way from a client, behind HTTP/2's preface.
#[derive(Default)]
pub struct Frames {
    /// Came, and is not understood yet.
    read: BytesMut,
    /// To be handed on.
    ready: BytesMut,
    /// Of the frame that is being handed on as it is.
    left: usize,
    /// A header block whose end has not come.
    block: Option<Block>,
    decoder: Decoder<'static>,
    /// Once the first block has named a list.
    encoder: Option<Encoder<'static>>,
    /// Nothing is to be written anew.
    is_plain: bool,
}

struct Block {
    /// As it came.
    frames: BytesMut,
    flags: u8,
    stream: [u8; 4],
    priority: BytesMut,
    fragment: BytesMut,
}

type Field = (Vec<u8>, Vec<u8>);

/// What ends the connection of a client that names a list. Everybody else's is ended by the implementation of HTTP/2.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("a frame of {0} bytes, at most {FRAME_BYTES_MAX} are allowed")]
    Frame(usize),
    #[error("a frame of headers is shorter than its flags say")]
    Flags,
    #[error("a frame of kind {0} within the headers of a call")]
    Order(u8),
    #[error("the headers of a call take more than {HEADER_LIST_BYTES_MAX} bytes")]
    Long,
    #[error("the headers of a call cannot be read")]
    Fields(#[from] DecoderError),
}

impl Frames {
    /// Reads from `io` what is to be handed on. `frames` goes as soon as the client is known to name one address.
    pub fn poll_read<IO: AsyncRead + Unpin>(
        frames: &mut Option<Box<Self>>,
        io: &mut IO,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let Some(it) = frames else { return Pin::new(io).poll_read(context, buffer) };
            if !it.ready.is_empty() {
                let count = it.ready.len().min(buffer.remaining());
                buffer.put_slice(&it.ready[..count]);
                it.ready.advance(count);
                return Poll::Ready(Ok(()));
            }
            if it.is_plain {
                *frames = None;
                continue;
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut *io).poll_read(context, buffer))?;
            let came = &buffer.filled()[before..];
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let taken = it.take(came);
            buffer.set_filled(before);
            taken.map_err(|broken| io::Error::new(io::ErrorKind::InvalidData, broken))?;
        }
    }

    fn take(&mut self, came: &[u8]) -> Result<(), Broken> {
        self.read.extend_from_slice(came);
        let done = self.go_on();
        if done.is_err() && self.encoder.is_none() {
            self.hand_on_all();
            return Ok(());
        }
        done
    }

    fn go_on(&mut self) -> Result<(), Broken> {
        while !self.read.is_empty() {
            if self.left > 0 {
                let count = self.left.min(self.read.len());
                self.ready.unsplit(self.read.split_to(count));
                self.left -= count;
                continue;
            }
            let Some(&[a, b, c, kind, flags, stream @ ..]) = self.read.first_chunk::<HEAD_BYTES>() else { break };
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > FRAME_BYTES_MAX as usize {
                return Err(Broken::Frame(length));
            }
            match (kind, &mut self.block) {
                (HEADERS, None) | (CONTINUATION, Some(_)) if self.read.len() < HEAD_BYTES + length => break,
                (HEADERS, None) => {
                    let frame = self.read.split_to(HEAD_BYTES + length);
                    self.block.insert(Block::new(frame, flags, stream)).open()?;
                }
                (CONTINUATION, Some(block)) => block.go_on(self.read.split_to(HEAD_BYTES + length))?,
                (_, None) => self.left = HEAD_BYTES + length,
                (_, Some(_)) => return Err(Broken::Order(kind)),
            }
            if let Some(block) = self.block.take_if(|_| flags & END_HEADERS != 0) {
                self.end(block)?;
            }
        }
        Ok(())
    }

    /// The header block is whole.
    fn end(&mut self, block: Block) -> Result<(), Broken> {
        let fields = self.fields(&block.fragment);
        let is_first = self.encoder.is_none();
        if is_first && !fields.as_ref().is_ok_and(|fields| fields.iter().any(|field| first_of_list(field).is_some())) {
            self.block = Some(block);
            self.hand_on_all();
            return Ok(());
        }
        let mut fields = fields?;
        for field in &mut fields {
            if let Some(first) = first_of_list(field) {
                field.1 = first;
            }
        }
        let encoder = self.encoder.get_or_insert_with(Encoder::new);
        let fields = fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        block.write(&encoder.encode(fields), &mut self.ready);
        Ok(())
    }

    fn fields(&mut self, fragment: &[u8]) -> Result<Vec<Field>, Broken> {
        let mut fields = Vec::new();
        let mut bytes = 0;
        self.decoder.set_max_allowed_table_size(TABLE_BYTES);
        self.decoder.decode_with_cb(fragment, |name, value| {
            bytes += name.len() + value.len() + FIELD_BYTES;
            if bytes <= HEADER_LIST_BYTES_MAX as usize {
                fields.push((name.into_owned(), value.into_owned()));
            }
        })?;
        if bytes > HEADER_LIST_BYTES_MAX as usize { Err(Broken::Long) } else { Ok(fields) }
    }

    fn hand_on_all(&mut self) {
        if let Some(block) = self.block.take() {
            self.ready.unsplit(block.frames);
        }
        self.ready.unsplit(self.read.split());
        self.is_plain = true;
    }
}

impl Block {
    fn new(frames: BytesMut, flags: u8, stream: [u8; 4]) -> Self {
        let fragment = BytesMut::from(&frames[HEAD_BYTES..]);
        Self { frames, flags, stream, priority: BytesMut::new(), fragment }
    }

    /// Takes off what is around the fragment of the first frame.
    fn open(&mut self) -> Result<(), Broken> {
        let fragment = &mut self.fragment;
        let mut padding = 0;
        if self.flags & PADDED != 0 {
            padding = usize::from(fragment.try_get_u8().map_err(|_| Broken::Flags)?);
        }
        let priority = if self.flags & PRIORITY != 0 { PRIORITY_BYTES } else { 0 };
        if fragment.len() < priority + padding {
            return Err(Broken::Flags);
        }
        self.priority = fragment.split_to(priority);
        fragment.truncate(fragment.len() - padding);
        Ok(())
    }

    fn go_on(&mut self, frame: BytesMut) -> Result<(), Broken> {
        self.fragment.extend_from_slice(&frame[HEAD_BYTES..]);
        self.frames.unsplit(frame);
        if self.frames.len() > BLOCK_BYTES_MAX { Err(Broken::Long) } else { Ok(()) }
    }

    /// Writes it as one frame: what is encoded is no longer than the list of fields, and that is shorter than a frame may be.
    fn write(&self, encoded: &[u8], to: &mut BytesMut) {
        let length = u32::try_from(self.priority.len() + encoded.len()).expect("fields are limited").to_be_bytes();
        to.extend_from_slice(&length[1..]);
        to.extend_from_slice(&[HEADERS, self.flags & !PADDED | END_HEADERS]);
        to.extend_from_slice(&self.stream);
        to.extend_from_slice(&self.priority);
        to.extend_from_slice(encoded);
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("is_list", &self.encoder.is_some()).finish_non_exhaustive()
    }
}

/// The first address, if the field is an `:authority` that names several.
fn first_of_list((name, value): &Field) -> Option<Vec<u8>> {
    if name != b":authority" || Authority::try_from(value.as_slice()).is_ok() {
        return None;
    }
    let first = value.split(|byte| matches!(byte, b';' | b',')).next()?;
    Authority::try_from(first).is_ok().then(|| first.to_vec())
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
