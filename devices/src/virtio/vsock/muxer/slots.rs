//! Where connections stand, and how much the guest may have under way on each.

use std::ops::{Index, IndexMut};

use crate::virtio::vsock::conn::{Backlog, Conn};
use crate::virtio::vsock::host::{Handshake, HostSocket};

/// How many bytes a guest may have under way on a connection, and how many connections may have so many. The
/// backlogs of all, should every host socket be full, stay within about a hundred megabytes.
const WINDOWS: [(u32, usize); 3] = [(256 * 1024, 64), (32 * 1024, 960), (8 * 1024, usize::MAX)];

/// Who asked for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Guest,
    Host,
}

/// What a slot holds.
pub(super) enum State {
    Free,
    /// A client of the host, before its line.
    Handshake(Handshake),
    Conn(Conn),
    /// What the guest sent before it closed, on its way to the host.
    Rest {
        socket: HostSocket,
        backlog: Backlog,
    },
}

impl State {
    /// Whether somebody has left it but for formalities.
    pub(super) fn is_leaving(&self) -> bool {
        match self {
            Self::Free => false,
            Self::Conn(conn) => conn.is_over(),
            Self::Handshake(_) | Self::Rest { .. } => true,
        }
    }
}

pub(super) struct Slot {
    pub(super) state: State,
    side: Side,
    /// Which of [`WINDOWS`] it has.
    class: usize,
    /// Tells an event for what was here before from one for what is here now.
    generation: u32,
    /// When it came to its state, for the choice of what to give up when slots run out.
    since: u64,
    /// It stands in the ready list.
    pub(super) ready: bool,
    /// It stands in the list of slots whose watched events may have to change.
    pub(super) unsettled: bool,
}

/// All slots, in use or not.
#[derive(Default)]
pub(super) struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
    /// Slots in use by [`Side`].
    used: [usize; 2],
    /// Slots in use by their window.
    classes: [usize; WINDOWS.len()],
    clock: u64,
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Slot> {
        self.all.get(index)
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Slot> {
        self.all.iter_mut()
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Slot> {
        self.all.iter()
    }

    /// Slots in use by connections that this side asked for.
    pub(super) fn used(&self, side: Side) -> usize {
        self.used[side as usize]
    }

    /// The slot of this side that has been about to leave for longest.
    pub(super) fn eldest_leaving(&self, side: Side) -> Option<usize> {
        let leaving =
            self.all.iter().enumerate().filter(|(_, slot)| slot.side == side && slot.state.is_leaving());
        leaving.min_by_key(|(_, slot)| slot.since).map(|(index, _)| index)
    }

    /// An empty slot, which counts as in use from here on until [`vacate`](Self::vacate).
    pub(super) fn take(&mut self, side: Side) -> usize {
        let class = (0..WINDOWS.len()).find(|&class| self.classes[class] < WINDOWS[class].1);
        let class = class.expect("the last window has no limit");
        let index = self.free.pop().unwrap_or_else(|| {
            let (ready, unsettled) = (false, false);
            self.all.push(Slot {
                state: State::Free,
                side,
                class,
                generation: 0,
                since: 0,
                ready,
                unsettled,
            });
            self.all.len() - 1
        });
        let slot = &mut self.all[index];
        (slot.side, slot.class) = (side, class);
        slot.generation = slot.generation.wrapping_add(1);
        self.used[side as usize] += 1;
        self.classes[class] += 1;
        index
    }

    /// Lets somebody else have an empty slot.
    pub(super) fn vacate(&mut self, index: usize) {
        let slot = &self.all[index];
        self.used[slot.side as usize] -= 1;
        self.classes[slot.class] -= 1;
        self.free.push(index);
    }

    /// Bytes that the guest may have under way in this slot.
    pub(super) fn window(&self, index: usize) -> u32 {
        WINDOWS[self.all[index].class].0
    }

    /// Gives a slot in use its state.
    pub(super) fn place(&mut self, index: usize, state: State) {
        self.clock += 1;
        self.all[index].since = self.clock;
        self.all[index].state = state;
    }

    /// What events of this slot's socket carry.
    pub(super) fn token(&self, index: usize) -> u64 {
        u64::from(self.all[index].generation) << 32 | index as u64
    }
}

impl Index<usize> for Slots {
    type Output = Slot;

    fn index(&self, index: usize) -> &Slot {
        &self.all[index]
    }
}

impl IndexMut<usize> for Slots {
    fn index_mut(&mut self, index: usize) -> &mut Slot {
        &mut self.all[index]
    }
}
