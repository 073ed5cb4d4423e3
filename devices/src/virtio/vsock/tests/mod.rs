//! The device as a whole: a guest's rings on one side, Unix sockets on the other, one thread.

mod any_steps;
mod flow;
mod guest;
mod hostile;
mod interrupts;
mod lifecycle;
mod messages;
mod ring;
mod socket;
mod stalled;
