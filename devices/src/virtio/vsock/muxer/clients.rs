//! Clients of the host: accepted, heard, and asked for at the guest.

use log::debug;
use vmm_sys_util::epoll::{ControlOperation, EpollEvent, EventSet};

use super::{BATCH, LISTENER, Muxer, Side, State};
use crate::virtio::vsock::conn::Conn;
use crate::virtio::vsock::host::Handshake;
use crate::virtio::vsock::packet::{Key, Kind};

/// Host ports of connections that the host asks for: a range of their own, which starts here.
pub(super) const FIRST_PORT: u32 = 1 << 30;

impl Muxer {
    /// Takes clients of a listener.
    pub(super) fn accept(&mut self, listener: usize) {
        for _ in 0..BATCH {
            let Some(listener) = self.listeners.get(listener) else { return };
            match listener.accept() {
                Ok(Some(socket)) => {
                    // What is not kept is closed: refused.
                    let wanted = socket.kind() == Kind::Stream || self.seqpacket;
                    if wanted && self.make_room(Side::Host) {
                        let index = self.slots.take(Side::Host);
                        match self.watch_new(index, State::Handshake(Handshake::new(socket))) {
                            // The line is often there already.
                            Ok(()) => self.on_event(index, EventSet::IN),
                            Err(error) => debug!("vsock: client not watched: {error}"),
                        }
                    }
                }
                Ok(None) => return self.unpark(),
                Err(error) => {
                    // The client still waits, so the listener would report it for ever.
                    debug!("vsock: client not accepted: {error}");
                    return self.watch_listeners(EventSet::IN | EventSet::EDGE_TRIGGERED);
                }
            }
        }
    }

    pub(super) fn unpark(&mut self) {
        if self.parked {
            self.watch_listeners(EventSet::IN);
        }
    }

    fn watch_listeners(&mut self, events: EventSet) {
        if !self.listening {
            return;
        }
        self.parked = events.contains(EventSet::EDGE_TRIGGERED);
        for (token, listener) in (LISTENER..=u64::MAX).zip(&self.listeners) {
            let event = EpollEvent::new(events, token);
            // It is in the epoll: this fails only for lack of memory, and then it is watched as before.
            let _ = self.epoll.ctl(ControlOperation::Modify, listener.fd(), event);
        }
    }

    /// Asks the guest for a connection on behalf of the client in slot `index`.
    pub(super) fn request(&mut self, index: usize, port: u32) {
        let State::Handshake(handshake) = std::mem::replace(&mut self.slots[index].state, State::Free) else {
            return;
        };
        let key = self.assign(port);
        let conn = Conn::requested(key, handshake.into_socket(), self.slots.window(index));
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
