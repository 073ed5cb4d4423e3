//! The device as a whole: a guest's rings on one side, Unix sockets on the other, one thread.

mod driver;
mod flow;
mod hostile;
mod lifecycle;
