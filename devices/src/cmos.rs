//! The battery-backed clock of a PC, ports 0x70 and 0x71, showing the host's time in UTC.
//!
//! A kernel without kvmclock reads it once while it boots: seconds, status A, seconds, then the date, then
//! the two again, each by a write of an index and a read of the value, and all of it again when the second
//! changed in between or when an update is in progress. So the time is latched for a while, an update is
//! never in progress: one pass always does. The values are decimal, two digits to the byte, as on every PC: Linux
//! takes them so whatever status B says (RTC_ALWAYS_BCD).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;

/// First port.
pub const CMOS_BASE: u64 = 0x70;
/// Number of ports.
pub const CMOS_SIZE: u64 = 2;
/// Register of the century, to be named by the ACPI tables: software looks nowhere else for it.
pub const CENTURY: u8 = 0x32;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;

/// 32.768 kHz time base, 1024 Hz rate; bit 7, update in progress, is never set.
const STATUS_A_VALUE: u8 = 0x26;
/// 24-hour mode, decimal values, no interrupts.
const STATUS_B_VALUE: u8 = 0x02;
/// The battery is good.
const STATUS_D_VALUE: u8 = 0x80;

/// How long a reader sees the same time: far longer than a pass takes, far shorter than a second.
const LATCH: Duration = Duration::from_millis(50);

/// The clock, and the 128 bytes of memory that it is part of. Guests may keep bytes there; they cannot set
/// the clock.
pub struct Cmos {
    now: Box<dyn Fn() -> SystemTime + Send + Sync>,
    state: Mutex<State>,
}

struct State {
    index: u8,
    latched: SystemTime,
    time: Utc,
    memory: [u8; 128],
}

impl Default for Cmos {
    fn default() -> Self {
        Self::new()
    }
}

impl Cmos {
    /// A clock that shows the host's time.
    pub fn new() -> Self {
        Self::with_clock(SystemTime::now)
    }

    /// A clock that shows what `now` says.
    pub fn with_clock(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let latched = UNIX_EPOCH;
        let state = State { index: 0, latched, time: Utc::at(latched), memory: [0; 128] };
        Self { now: Box::new(now), state: Mutex::new(state) }
    }
}

impl State {
    fn value(&mut self, now: &dyn Fn() -> SystemTime) -> u8 {
        if matches!(self.index, SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY) {
            let now = now();
            // A host clock that was set back is an error here, and a reason to look again.
            if now.duration_since(self.latched).map_or(true, |age| age >= LATCH) {
                self.time = Utc::at(now);
                self.latched = now;
            }
        }
        let time = &self.time;
        match self.index {
            SECONDS => decimal(time.second),
            MINUTES => decimal(time.minute),
            HOURS => decimal(time.hour),
            WEEKDAY => decimal(time.weekday),
            DAY => decimal(time.day),
            MONTH => decimal(time.month),
            YEAR => decimal(time.year),
            CENTURY => decimal(time.century),
            STATUS_A => STATUS_A_VALUE,
            STATUS_B => STATUS_B_VALUE,
            STATUS_C => 0,
            STATUS_D => STATUS_D_VALUE,
            index => self.memory[usize::from(index)],
        }
    }
}

impl BusDevice for Cmos {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 1
            && let Some(first) = data.first_mut()
        {
            *first = state.value(&self.now);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            // Bit 7 masks the NMI, of which there is none.
            state.index = value & 0x7f;
        } else {
            let index = usize::from(state.index);
            state.memory[index] = value;
        }
        // A word written to the index port is an index and a value.
        if let (0, Some(&value)) = (offset, data.get(1)) {
            let index = usize::from(state.index);
            state.memory[index] = value;
        }
    }
}

/// Two decimal digits to the byte; `value` is below 100.
fn decimal(value: u8) -> u8 {
    ((value / 10) << 4) | (value % 10)
}

/// A time of the Gregorian calendar, as the clock's registers hold it.
#[derive(Debug, PartialEq, Eq)]
struct Utc {
    second: u8,
    minute: u8,
    hour: u8,
    /// 1 is Sunday.
    weekday: u8,
    day: u8,
    month: u8,
    /// Within the century.
    year: u8,
    century: u8,
}

const DAY_SECONDS: u64 = 24 * 60 * 60;
const FOUR_YEARS: u64 = 4 * 365 + 1;
const CENTURY_DAYS: u64 = 25 * FOUR_YEARS - 1;
const FOUR_CENTURIES: u64 = 4 * CENTURY_DAYS + 1;
/// From 1 March of the year 0 to 1 January 1970.
const MARCH_0_TO_1970: u64 = 719_468;
/// The last second of the year 9999: two digits of century hold no more.
const LAST: u64 = 253_402_300_799;

impl Utc {
    /// The calendar time; a host clock before 1970 counts as 1970.
    fn at(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()).min(LAST);
        let (days, of_day) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
        // Years begin in March here, so that a leap day is a year's last. The last day of a cycle of four
        // centuries, or of four years, belongs to its last part and not to one more, hence the `min`.
        let since = days + MARCH_0_TO_1970;
        let (cycles, day) = (since / FOUR_CENTURIES, since % FOUR_CENTURIES);
        let centuries = (day / CENTURY_DAYS).min(3);
        let day = day - centuries * CENTURY_DAYS;
        let (fours, day) = (day / FOUR_YEARS, day % FOUR_YEARS);
        let years = (day / 365).min(3);
        let day = day - years * 365;
        // From March on the months' lengths repeat every five: 31 30 31 30 31.
        let month = (5 * day + 2) / 153;
        let first = (153 * month + 2) / 5;
        let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = 400 * cycles + 100 * centuries + 4 * fours + years + next_year;
        let byte = |n: u64| u8::try_from(n).expect("a part of a date is less than 100");
        Self {
            second: byte(of_day % 60),
            minute: byte(of_day / 60 % 60),
            hour: byte(of_day / 3600),
            // 1 January 1970 was a Thursday.
            weekday: byte((days + 4) % 7 + 1),
            day: byte(day - first + 1),
            month: byte(month),
            year: byte(year % 100),
            century: byte(year / 100),
        }
    }
}

#[cfg(test)]
mod tests;
