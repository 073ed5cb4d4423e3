//! PID 1's end of the report connection (format: [`crate::report`]).

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::ports::{HOST_CID, PRIVILEGED_PORTS_END, report_port};
use crate::report::{Command, Decoder, Message, Report};

/// `_IO(7, 0xb9)` of `linux/vm_sockets.h`.
const IOCTL_VM_SOCKETS_GET_LOCAL_CID: libc::c_ulong = 0x7b9;

/// The host is gone, or does not keep to the protocol, which is the same: the VM has nobody to run for.
#[derive(Debug, thiserror::Error)]
#[error("the host closed the report connection")]
pub struct HostGone;

/// The connection to the host.
#[derive(Debug)]
pub struct Host {
    stream: File,
    decoder: Decoder<Command>,
}

impl Host {
    /// Connects to the host's service, from a port that no payload can bind.
    ///
    /// # Errors
    /// Those of `/dev/vsock` and the socket calls.
    pub fn connect() -> io::Result<Self> {
        let vsock = File::open("/dev/vsock")?;
        let mut cid: libc::c_uint = 0;
        // SAFETY: the ioctl fills the unsigned int it is given.
        check(unsafe { libc::ioctl(vsock.as_raw_fd(), IOCTL_VM_SOCKETS_GET_LOCAL_CID, &raw mut cid) })?;
        // SAFETY: takes no memory; the descriptor is new and owned by nobody else.
        let socket = unsafe {
            let socket = check(libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
            OwnedFd::from_raw_fd(socket)
        };
        let local = address(libc::VMADDR_CID_ANY, PRIVILEGED_PORTS_END - 1);
        let host = address(HOST_CID, report_port(cid));
        let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).map_err(io::Error::other)?;
        // SAFETY: both addresses are initialised, of this size, and live across the calls.
        unsafe {
            check(libc::bind(socket.as_raw_fd(), (&raw const local).cast(), size))?;
            check(libc::connect(socket.as_raw_fd(), (&raw const host).cast(), size))?;
        }
        Ok(Self::over(socket.into()))
    }

    /// Speaks over any stream.
    #[must_use]
    pub fn over(stream: File) -> Self {
        Self { stream, decoder: Decoder::new() }
    }

    /// Sends a report.
    ///
    /// # Errors
    /// [`HostGone`].
    pub fn send(&mut self, report: &Report) -> Result<(), HostGone> {
        report.write_to(&mut self.stream).map_err(|_| HostGone)
    }

    /// Reads what there is, which blocks when there is nothing; [`next_command`](Self::next_command) gives what is in it.
    ///
    /// # Errors
    /// [`HostGone`].
    pub fn fill(&mut self) -> Result<(), HostGone> {
        let mut bytes = [0; 256];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(HostGone),
                Ok(count) => {
                    self.decoder.push(&bytes[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(HostGone),
            }
        }
    }

    /// The next command among those read already.
    ///
    /// # Errors
    /// [`HostGone`].
    pub fn next_command(&mut self) -> Result<Option<Command>, HostGone> {
        self.decoder.pop().map_err(|_| HostGone)
    }

    /// Sends a report and waits for its Ack. Whether to go on: false when the host said Stop meanwhile.
    ///
    /// # Errors
    /// [`HostGone`].
    pub fn send_and_wait(&mut self, report: &Report) -> Result<bool, HostGone> {
        self.send(report)?;
        let mut go_on = true;
        loop {
            match self.next_command()? {
                Some(Command::Ack) => return Ok(go_on),
                Some(Command::Stop { .. }) => go_on = false,
                None => self.fill()?,
            }
        }
    }
}

impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: sockaddr_vm is plain old data, for which zeros are valid.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).expect("AF_VSOCK is 40");
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

/// The result of a system call that is -1 on failure.
///
/// # Errors
/// errno.
pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::codes::ErrorCode;

    fn pair() -> (Host, UnixStream) {
        let (guest, host) = UnixStream::pair().unwrap();
        (Host::over(File::from(OwnedFd::from(guest))), host)
    }

    #[test]
    fn a_report_waits_for_its_ack() {
        let (mut guest, mut host) = pair();
        host.write_all(&Command::Ack.to_frame()).unwrap();
        let report = Report::Error { code: ErrorCode::Unknown, message: "m".into() };
        assert!(guest.send_and_wait(&report).unwrap());
        assert_eq!(Report::read_from(&mut host).unwrap(), report);
    }

    #[test]
    fn a_stop_before_the_ack_is_remembered() {
        let (mut guest, mut host) = pair();
        host.write_all(&Command::Stop { grace_ms: 1 }.to_frame()).unwrap();
        host.write_all(&Command::Ack.to_frame()).unwrap();
        assert!(!guest.send_and_wait(&Report::Started).unwrap());
    }

    #[test]
    fn a_stop_right_behind_the_ack_is_not_lost() {
        let (mut guest, mut host) = pair();
        let mut frames = Command::Ack.to_frame();
        frames.extend(Command::Stop { grace_ms: 7 }.to_frame());
        host.write_all(&frames).unwrap();
        assert!(guest.send_and_wait(&Report::Started).unwrap());
        assert_eq!(guest.next_command().unwrap(), Some(Command::Stop { grace_ms: 7 }));
    }

    #[test]
    fn a_host_that_hangs_up_or_talks_nonsense_is_gone() {
        let (mut guest, host) = pair();
        drop(host);
        assert!(guest.send_and_wait(&Report::Started).is_err());
        let (mut guest, mut host) = pair();
        host.write_all(&[1, 0, 0, 0, 0x01]).unwrap();
        guest.fill().unwrap();
        assert!(guest.next_command().is_err(), "a report is no command");
        let (mut guest, mut host) = pair();
        host.write_all(&[5, 0]).unwrap();
        guest.fill().unwrap();
        assert_eq!(guest.next_command().unwrap(), None);
        drop(host);
        assert!(guest.fill().is_err());
    }
}
