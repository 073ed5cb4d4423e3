//! What a driver may do wrong with a queue (virtio 1.2, 2.7).

/// How the driver broke the rules of a queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The ring itself: indices, addresses.
    #[error("ring")]
    Ring(#[source] virtio_queue::Error),
    /// A chain that loops, leaves the table, or is longer than the queue or than 4 GiB.
    #[error("chain {head} is broken or longer than its queue")]
    BrokenChain {
        /// Index of the first descriptor.
        head: u16,
    },
    /// An indirect table that is empty, ragged, nested, not the last of its chain, or was not negotiated (2.7.5.3).
    #[error("chain {head} has a bad indirect table")]
    Indirect {
        /// Index of the first descriptor.
        head: u16,
    },
    /// A readable descriptor after a writable one (2.7.4.2).
    #[error("chain {head} has a readable descriptor after a writable one")]
    Order {
        /// Index of the first descriptor.
        head: u16,
    },
    /// A buffer that is empty or not guest memory.
    #[error("buffer {addr:#x}+{len:#x} is not guest memory")]
    Buffer {
        /// Guest address.
        addr: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A request that the device cannot answer because it has no room for an answer.
    #[error("chain {head} has no room for {what}")]
    NoRoom {
        /// Index of the first descriptor.
        head: u16,
        /// What is missing.
        what: &'static str,
    },
}
