use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn read(cmos: &Cmos, register: u8) -> u8 {
    let mut data = [0];
    cmos.write(0, &[register]);
    cmos.read(1, &mut data);
    data[0]
}

fn clock(start: u64) -> (Arc<AtomicU64>, Cmos) {
    let millis = Arc::new(AtomicU64::new(start));
    let source = Arc::clone(&millis);
    let now = move || UNIX_EPOCH + Duration::from_millis(source.load(Ordering::Relaxed));
    (millis, Cmos::with_clock(now))
}

/// The C library's calendar.
fn oracle(seconds: u64) -> libc::tm {
    let time = libc::time_t::try_from(seconds).unwrap();
    // SAFETY: all zeros is a valid `tm`.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live objects of the right types.
    assert!(!unsafe { libc::gmtime_r(&time, &mut tm) }.is_null());
    tm
}

fn assert_same(seconds: u64) {
    let got = Utc::at(UNIX_EPOCH + Duration::from_secs(seconds));
    let tm = oracle(seconds);
    let year = tm.tm_year + 1900;
    let expected = [tm.tm_sec, tm.tm_min, tm.tm_hour, tm.tm_wday + 1, tm.tm_mday, tm.tm_mon + 1, year % 100];
    let values = [got.second, got.minute, got.hour, got.weekday, got.day, got.month, got.year];
    assert_eq!(values.map(i32::from), expected, "{seconds}");
    assert_eq!(i32::from(got.century), year / 100, "{seconds}");
}

#[test]
fn every_day_of_four_centuries_is_the_c_librarys() {
    for day in 0..146_097 {
        assert_same(day * DAY_SECONDS + day % DAY_SECONDS);
    }
}

proptest! {
    #[test]
    fn the_calendar_is_the_c_librarys(seconds in 0..=LAST) {
        assert_same(seconds);
    }
}

#[test]
fn times_out_of_range_are_the_nearest_in_range() {
    assert_eq!(Utc::at(UNIX_EPOCH - Duration::from_secs(1)), Utc::at(UNIX_EPOCH));
    let last = UNIX_EPOCH + Duration::from_secs(LAST);
    assert_eq!(Utc::at(last + Duration::from_secs(1)), Utc::at(last));
}

/// What Linux does at boot (`mc146818_get_time`), over a second's end: it must not have to start again.
#[test]
fn one_pass_reads_a_consistent_time() {
    let (millis, cmos) = clock(1_700_000_000_999);
    let mut registers = vec![];
    for register in [SECONDS, STATUS_A, SECONDS, SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, STATUS_B, CENTURY]
    {
        registers.push(read(&cmos, register));
        millis.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(read(&cmos, STATUS_A) & 0x80, 0);
    assert_eq!(read(&cmos, SECONDS), registers[0]);
    // 2023-11-14 22:13:20 UTC, a digit to each half of a byte; status B says so (bit 2 is clear).
    assert_eq!(STATUS_B_VALUE & 4, 0);
    assert_eq!(
        registers,
        [0x20, STATUS_A_VALUE, 0x20, 0x20, 0x13, 0x22, 0x14, 0x11, 0x23, STATUS_B_VALUE, 0x20]
    );
}

#[test]
fn the_time_goes_on_and_follows_a_host_clock_that_is_set_back() {
    let (millis, cmos) = clock(1_700_000_000_000);
    assert_eq!(read(&cmos, SECONDS), 0x20);
    millis.fetch_add(1000, Ordering::Relaxed);
    assert_eq!(read(&cmos, SECONDS), 0x21);
    millis.fetch_sub(10_000, Ordering::Relaxed);
    assert_eq!(read(&cmos, SECONDS), 0x11);
}

#[test]
fn memory_is_the_guests_and_the_clock_is_not() {
    let (_, cmos) = clock(1_700_000_000_000);
    for register in 0..128 {
        let before = read(&cmos, register);
        cmos.write(1, &[0x5a]);
        let is_clock = register <= STATUS_D && register % 2 == 0 && register < 7 || register == CENTURY;
        let fixed = is_clock || (DAY..=STATUS_D).contains(&register);
        assert_eq!(read(&cmos, register), if fixed { before } else { 0x5a }, "{register:#x}");
    }
    assert_eq!(read(&cmos, STATUS_D) & 0x80, 0x80);
}

#[test]
fn the_nmi_mask_is_not_part_of_the_index() {
    let (_, cmos) = clock(1_700_000_000_000);
    assert_eq!(read(&cmos, 0x80 | MINUTES), 0x13);
    let mut data = [0];
    cmos.read(0, &mut data);
    assert_eq!(data, [0xff], "the index port cannot be read");
}
