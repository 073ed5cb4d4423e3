//! Any packets of the guest among any doings of the host, in any order.

use proptest::prelude::*;
use zerocopy::little_endian::{U16, U32, U64};

use super::guest::{CID, Guest};
use super::socket::pattern;
use crate::virtio::vsock::host;
use crate::virtio::vsock::packet::{Header, Kind, op};

/// A value, and how often.
fn header() -> impl Strategy<Value = Header> {
    let few = |values: &'static [u32]| prop::sample::select(values).prop_map(U32::new);
    (
        prop_oneof![20 => Just(CID), 1 => 0..5u64],
        prop_oneof![20 => Just(2u64), 1 => 0..5u64],
        few(&[1000, 1001, 1002, 55]),
        prop_oneof![9 => few(&[7, 8, 9, 42]), 3 => (1u32 << 30..(1 << 30) + 6).prop_map(U32::new)],
        prop_oneof![
            4 => few(&[0]),
            4 => (1..3000u32).prop_map(U32::new),
            1 => few(&[65536, 65537, u32::MAX]),
        ],
        prop_oneof![12 => Just(1u16), 8 => Just(2u16), 1 => 0..4u16],
        prop_oneof![12 => 1..8u16, 4 => Just(op::RW), 1 => any::<u16>()],
        (0..5u32, few(&[0, 1, 100, 65536, 1 << 20, u32::MAX]), few(&[0, 1, 100, 65536, u32::MAX])),
    )
        .prop_map(|(src, dst, src_port, dst_port, len, kind, op, (flags, buf_alloc, fwd_cnt))| Header {
            src_cid: U64::new(src),
            dst_cid: U64::new(dst),
            src_port,
            dst_port,
            len,
            kind: U16::new(kind),
            op: U16::new(op),
            flags: U32::new(flags),
            buf_alloc,
            fwd_cnt,
        })
}

#[derive(Clone, Debug)]
enum Step {
    Packet(Header, usize),
    Client(Kind),
    HostWrites(usize, usize),
    HostReads(usize),
    HostLeaves(usize),
    RxBuffers(u16),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (header(), prop_oneof![Just(0usize), 1..3000usize, Just(65536)])
            .prop_map(|(header, len)| Step::Packet(header, len)),
        2 => prop_oneof![Just(Kind::Stream), Just(Kind::Seqpacket)].prop_map(Step::Client),
        4 => (0..8usize, 1..100_000usize).prop_map(|(who, len)| Step::HostWrites(who, len)),
        3 => (0..8usize).prop_map(Step::HostReads),
        2 => (0..8usize).prop_map(Step::HostLeaves),
        2 => prop_oneof![Just(0u16), 1..60u16].prop_map(Step::RxBuffers),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the guest and the host do: no panic, no spin, no growth.
    #[test]
    fn anything_goes(steps in prop::collection::vec(step(), 1..150)) {
        let mut guest = Guest::with(|mut vsock| {
            vsock.claim(42, Box::new(|from| {
                from.is_privileged().then(|| std::os::unix::net::UnixStream::pair().unwrap().0)
            }));
            vsock.with_limit(6)
        });
        let services = [(7, Kind::Stream), (8, Kind::Seqpacket)].map(|(port, kind)| {
            host::Listener::bind(&guest.service_path(port), kind).unwrap()
        });
        let data = pattern(100_000);
        let mut hosts = Vec::new();
        for step in steps {
            match step {
                Step::Packet(header, len) if guest.tx_has_room() => {
                    guest.send(&header, &data[..len]);
                }
                Step::Packet(..) => {}
                Step::Client(kind) => {
                    let client = host::connect(&host::clients_path(&guest.path(), kind), kind).unwrap();
                    let _ = client.send(b"CONNECT 55\n");
                    let _ = client.send(b"hello");
                    hosts.push(client);
                }
                Step::HostWrites(who, len) => {
                    if let Some(host) = hosts.get(who) {
                        let _ = host.send(&data[..len]);
                    }
                }
                Step::HostReads(who) => {
                    if let Some(host) = hosts.get(who) {
                        let _ = host.receive(&mut [0; 50_000], 0);
                    }
                }
                Step::HostLeaves(who) => {
                    if who < hosts.len() {
                        hosts.remove(who);
                    }
                }
                Step::RxBuffers(count) => {
                    guest.rx_buffers = count;
                    guest.post_rx();
                }
                Step::Reset => {
                    guest.reset();
                    guest.activate();
                }
            }
            guest.step();
            guest.inbox.clear();
            hosts.extend(services.iter().filter_map(|service| service.accept().unwrap()));
            let [used, slots, resets, ready, backlog] = guest.census();
            prop_assert!(used <= 12 && slots <= 12 && ready <= 12, "{used} {slots} {ready}");
            prop_assert!(resets <= 256 + 2 + 12, "{resets}");
            prop_assert!(backlog <= 12 * 3 * 256 * 1024, "{backlog}");
            prop_assert!(!guest.interrupt.is_reset_needed());
        }
    }
}
