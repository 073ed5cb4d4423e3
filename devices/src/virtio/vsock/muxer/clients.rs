//! Clients of the host: accepted, heard, and asked for at the guest.

use log::debug;
use vmm_sys_util::epoll::{ControlOperation, EpollEvent, EventSet};

use super::{BATCH, LISTENER, Muxer, State};
use crate::virtio::vsock::conn::Conn;
use crate::virtio::vsock::host::Handshake;
use crate::virtio::vsock::packet::Key;

/// Host ports of connections that the host asks for: a range of their own, which starts here.
pub(super) const FIRST_PORT: u32 = 1 << 30;

impl Muxer {
    pub(super) fn accept(&mut self) {
        for _ in 0..BATCH {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok(Some(stream)) => {
                    // Without room the stream is closed: refused.
                    if self.make_room()
                        && let Err(error) = self.insert(State::Handshake(Handshake::new(stream)))
                    {
                        debug!("vsock: client not watched: {error}");
                    }
                }
                Ok(None) => return self.unpark(),
                Err(error) => {
                    // The client still waits, so the listener would report it for ever.
                    debug!("vsock: client not accepted: {error}");
                    return self.watch_listener(EventSet::IN | EventSet::EDGE_TRIGGERED);
                }
            }
        }
    }

    pub(super) fn unpark(&mut self) {
        if self.parked {
            self.watch_listener(EventSet::IN);
        }
    }

    fn watch_listener(&mut self, events: EventSet) {
        if let Some(listener) = &self.listener
            && self.listening
        {
            let event = EpollEvent::new(events, LISTENER);
            // The listener is in the epoll: this fails only for lack of memory, and then nothing changes.
            if self.epoll.ctl(ControlOperation::Modify, listener.fd(), event).is_ok() {
                self.parked = events.contains(EventSet::EDGE_TRIGGERED);
            }
        }
    }

    /// Asks the guest for a connection on behalf of the client in slot `index`.
    pub(super) fn request(&mut self, index: usize, port: u32) {
        let State::Handshake(handshake) = std::mem::replace(&mut self.slots[index].state, State::Free) else {
            return;
        };
        let key = self.assign(port);
        let window = self.take_window();
        let conn = Conn::requested(key, handshake.into_stream(), window);
        self.place(index, State::Conn(conn), EventSet::IN);
    }

    /// A host port that no connection of `guest` has.
    fn assign(&mut self, guest: u32) -> Key {
        loop {
            let key = Key { host: self.next_port, guest };
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            // There are more ports than slots, so this ends.
            if !self.keys.contains_key(&key) {
                return key;
            }
        }
    }
}
