//! A virtual machine monitor for payloads, and for plain kernels.
//!
//! ```text
//!   config (JSON) ──> prepare ──> VmSpec (every file open) ──> builder ──> Vm, paused ──> run ──> Outcome
//!                        │                                        │                        │
//!                     payload: plan of the disk                 boot, devices            vcpu threads, event loop
//! ```
//!
//! To embed it: read a configuration with [`config`], open its files with [`prepare`], build the VM with
//! [`builder::build`], run it with [`Vm::run`]. The process gets a handler for SIGRTMIN, which interrupts vCPUs.

pub mod arch;
pub mod attach;
pub mod build_error;
pub mod builder;
pub mod cli;
pub mod config;
pub mod disks;
pub mod event_loop;
pub mod exit;
pub mod failure;
mod gate;
pub mod guest;
pub mod host;
pub mod library;
pub mod loading;
mod lock;
mod logger;
pub mod memory;
pub mod os;
pub mod output;
mod outputs;
pub mod prepare;
mod report;
pub mod report_port;
mod software;
pub mod spec;
mod terminal;
pub mod vcpu;
pub mod vm;

pub use vm::{Vm, VmHandle};
