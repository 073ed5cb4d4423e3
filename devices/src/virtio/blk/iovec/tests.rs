use super::*;
use crate::virtio::testing::guest_memory;
use proptest::prelude::*;
use vm_memory::GuestAddress;

/// Buffers of these lengths, 64 bytes apart.
fn layout(lens: &[u32]) -> Vec<Buffer> {
    let addrs = (0x1000u64..).step_by(64);
    lens.iter().zip(addrs).map(|(&len, addr)| Buffer { addr: GuestAddress(addr), len }).collect()
}

fn contents(memory: &GuestMemoryMmap, buffers: &[Buffer]) -> Vec<u8> {
    let read = |b: &Buffer| {
        let mut bytes = vec![0; b.len as usize];
        memory.read_slice(&mut bytes, b.addr).unwrap();
        bytes
    };
    buffers.iter().flat_map(read).collect()
}

fn gathered(memory: &Arc<GuestMemoryMmap>, buffers: &[Buffer], access: Permissions) -> Iovecs {
    let mut iovecs = Iovecs::default();
    iovecs.gather(memory, buffers.iter().copied(), access).unwrap();
    iovecs
}

fn lens(window: &[libc::iovec]) -> Vec<usize> {
    window.iter().map(|entry| entry.iov_len).collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// A read of a window of so many bytes that gets so many of them.
    Read(u64, u64),
    Zero(u64),
    Copy(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..100, 0u64..60).prop_map(|(count, short)| Step::Read(count, short)),
        (0u64..60).prop_map(Step::Zero),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(Step::Copy),
    ]
}

proptest! {
    /// Any sequence of fills puts the bytes where a flat buffer would have them, and nothing elsewhere.
    #[test]
    fn fills_follow_each_other(
        lens in prop::collection::vec(1u32..64, 1..8), steps in prop::collection::vec(step(), 0..8),
    ) {
        let memory = Arc::new(guest_memory());
        memory.write_slice(&[0xee; 0x1000], GuestAddress(0x1000)).unwrap();
        let buffers = layout(&lens);
        let mut iovecs = gathered(&memory, &buffers, Permissions::Write);
        let mut model = vec![0xee; lens.iter().map(|&l| l as usize).sum()];
        let mut at = 0;
        for step in steps {
            let source = match &step {
                Step::Read(count, short) => {
                    let window = iovecs.window(*count);
                    let size: usize = window.iter().map(|entry| entry.iov_len).sum();
                    prop_assert_eq!(size, usize::try_from(*count).unwrap().min(model.len() - at));
                    let got = size.min(usize::try_from(*short).unwrap());
                    let bytes: Vec<u8> = (1..).take(got).collect();
                    let mut left = &bytes[..];
                    for entry in window {
                        let (now, rest) = left.split_at(left.len().min(entry.iov_len));
                        // SAFETY: the window lies in `memory`, which nobody else uses, and is as long as it says.
                        unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), entry.iov_base.cast(), now.len()) };
                        left = rest;
                    }
                    iovecs.advance(got as u64);
                    bytes
                }
                Step::Zero(count) => {
                    iovecs.zero(*count);
                    vec![0; usize::try_from(*count).unwrap()]
                }
                Step::Copy(bytes) => {
                    iovecs.copy_from(bytes);
                    bytes.clone()
                }
            };
            let fits = source.len().min(model.len() - at);
            model[at..at + fits].copy_from_slice(&source[..fits]);
            at += fits;
            prop_assert_eq!(iovecs.len(), (model.len() - at) as u64);
            prop_assert_eq!(iovecs.is_empty(), model.len() == at);
        }
        prop_assert_eq!(contents(&memory, &buffers), model);
        for buffer in &buffers {
            let gap = Buffer { addr: GuestAddress(buffer.addr.0 + u64::from(buffer.len)), len: 64 - buffer.len };
            prop_assert!(contents(&memory, &[gap]).iter().all(|&b| b == 0xee), "written outside of a buffer");
        }
    }
}

#[test]
fn a_window_is_cut_only_while_it_is_looked_at() {
    let memory = Arc::new(guest_memory());
    let mut iovecs = gathered(&memory, &layout(&[10, 20, 30]), Permissions::Read);
    assert_eq!(lens(iovecs.window(15)), [10, 5]);
    assert_eq!(lens(iovecs.window(60)), [10, 20, 30]);
    assert_eq!(lens(iovecs.window(0)), [0_usize; 0]);
    assert_eq!(lens(iovecs.window(15)), [10, 5]);
    iovecs.advance(12);
    assert_eq!(lens(iovecs.window(100)), [18, 30]);
    iovecs.advance(1000);
    assert!(iovecs.is_empty() && iovecs.window(1).is_empty());
}

#[test]
fn more_iovecs_than_the_kernel_takes_are_several_windows() {
    let memory = Arc::new(guest_memory());
    let buffers: Vec<Buffer> =
        (0..2500).map(|i| Buffer { addr: GuestAddress(0x1000 + 2 * i), len: 1 }).collect();
    let mut iovecs = gathered(&memory, &buffers, Permissions::Write);
    for expected in [1024, 1024, 452, 0] {
        assert_eq!(iovecs.window(2500).len(), expected);
        iovecs.advance(1024);
    }
}

#[test]
fn zeros_are_bounded_and_zero() {
    let mut iovecs = Iovecs::default();
    for (len, expected) in [(1, 1), (65536, 65536), (65537, 65537), (u64::MAX, 1 << 20)] {
        iovecs.zeros(len);
        assert_eq!(iovecs.len(), expected);
        let window: usize = lens(iovecs.window(u64::MAX)).iter().sum();
        assert_eq!(window as u64, expected);
    }
}

#[test]
fn buffers_may_span_regions_but_not_holes() {
    let page = 4096;
    let memory = GuestMemoryMmap::from_ranges(&[
        (GuestAddress(0), page),
        (GuestAddress(4096), page),
        (GuestAddress(0x10000), page),
    ]);
    let memory = Arc::new(memory.unwrap());
    let across = Buffer { addr: GuestAddress(4000), len: 200 };
    let mut iovecs = gathered(&memory, &[across], Permissions::Write);
    iovecs.copy_from(&[7; 200]);
    assert_eq!(contents(&memory, &[across]), [7; 200]);
    let out = Buffer { addr: GuestAddress(8000), len: 200 };
    assert!(iovecs.gather(&memory, [out].into_iter(), Permissions::Write).is_err());
}

#[test]
fn guest_memory_is_kept_until_it_is_let_go_of() {
    let memory = Arc::new(guest_memory());
    let mut iovecs = gathered(&memory, &layout(&[8]), Permissions::Read);
    assert_eq!(Arc::strong_count(&memory), 2);
    iovecs.gather(&memory, layout(&[8, 8]).into_iter(), Permissions::Read).unwrap();
    assert_eq!(Arc::strong_count(&memory), 2);
    iovecs.release();
    assert_eq!(Arc::strong_count(&memory), 1);
    assert!(iovecs.window(8).is_empty());
}
