//! vsock addresses of the services between host and guest.

/// The context id of the host, as every guest sees it (`VMADDR_CID_HOST`).
pub const HOST_CID: u32 = 2;

/// Context ids that guests get: low ones are reserved by vsock, and 16 bits are enough for the VMs of one host.
pub const GUEST_CIDS: std::ops::RangeInclusive<u32> = 2048..=65535;

/// Source ports below this one can be bound only with `CAP_NET_BIND_SERVICE`, which PID 1 has and no payload ever gets.
pub const PRIVILEGED_PORTS_END: u32 = 1024;

/// The port on the host where the payload manager of the guest `guest_cid` reports: the guest's own CID, so that one
/// listening address per guest exists even where all guests share the host's port space.
#[must_use]
pub const fn report_port(guest_cid: u32) -> u32 {
    guest_cid
}

/// Whether a connection from this guest port may be the report connection. The kernel of the guest vouches for the port;
/// a payload cannot bind one below [`PRIVILEGED_PORTS_END`].
#[must_use]
pub const fn may_report(guest_port: u32) -> bool {
    guest_port < PRIVILEGED_PORTS_END
}
