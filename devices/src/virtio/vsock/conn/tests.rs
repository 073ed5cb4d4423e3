//! Credit, where its counters wrap (virtio 1.2, 5.10.6.3).

use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;

const WINDOW: u32 = 64 * 1024;

/// A connection on which both sides have sent and taken `count` bytes so far.
fn after(count: u32) -> Conn {
    let request = Header {
        src_port: U32::new(1000),
        dst_port: U32::new(7),
        buf_alloc: U32::new(WINDOW),
        ..Header::new_zeroed()
    };
    let (ours, _) = UnixStream::pair().unwrap();
    let mut conn = Conn::accepted(&request, HostSocket::from_pair(ours, Kind::Stream).unwrap(), WINDOW);
    let _ = conn.next_control(3);
    (conn.sent, conn.peer_forwarded, conn.forwarded, conn.told_forwarded) = (count, count, count, count);
    conn
}

fn update(buf_alloc: u32, fwd_cnt: u32) -> Header {
    Header { buf_alloc: U32::new(buf_alloc), fwd_cnt: U32::new(fwd_cnt), ..Header::new_zeroed() }
}

proptest! {
    /// The guest's credit is what it has room for, wherever the counters stand.
    #[test]
    fn v1_2_5_10_6_3_credit_is_the_room_that_is_left(
        near in -100_000i64..100_000, sent in 0..=WINDOW, taken in 0..=WINDOW, buf_alloc in 0..=2 * WINDOW,
    ) {
        let count = u32::try_from(near.rem_euclid(1 << 32)).unwrap();
        let taken = taken.min(sent);
        let mut conn = after(count);
        prop_assert_eq!(conn.credit(), WINDOW);
        conn.data_header(3, sent, 0);
        prop_assert_eq!(conn.credit(), WINDOW - sent);
        conn.credit_from(&update(buf_alloc, count.wrapping_add(taken)));
        prop_assert_eq!(conn.credit(), buf_alloc.saturating_sub(sent - taken));
    }

    /// A guest that claims to have taken what it was never sent has no credit, unless it claims more than 2 GiB of room.
    #[test]
    fn v1_2_5_10_6_3_nothing_is_taken_before_it_is_sent(
        count: u32, sent in 0..=WINDOW, more in 1..=1u32 << 30, buf_alloc in 0..1u32 << 31,
    ) {
        let mut conn = after(count);
        conn.data_header(3, sent, 0);
        conn.credit_from(&update(buf_alloc, count.wrapping_add(sent).wrapping_add(more)));
        prop_assert_eq!(conn.credit(), 0);
    }

    /// What the guest is told of its own bytes wraps with them, and it is told before it has to stop.
    #[test]
    fn v1_2_5_10_6_3_the_guest_hears_of_its_bytes(near in -100_000i64..100_000, len in 1..=WINDOW) {
        let count = u32::try_from(near.rem_euclid(1 << 32)).unwrap();
        let mut conn = after(count);
        conn.forward(len as usize);
        prop_assert_eq!(conn.has_control(), len >= WINDOW / 2);
        let header = conn.header(3, op::CREDIT_UPDATE, 0);
        prop_assert_eq!(header.fwd_cnt.get(), count.wrapping_add(len));
        prop_assert_eq!(header.buf_alloc.get(), WINDOW);
        prop_assert!(!conn.has_control(), "told");
    }
}
