//! Dates to seconds.
#![forbid(unsafe_code)]

use crate::UnixSeconds;

/// Unix seconds of `YYYY-MM-DD` and, after one character, `hh:mm:ss`, taken as UTC. None for anything else, or before 1970.
pub(super) fn seconds(text: &str) -> Option<UnixSeconds> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u32>().ok();
    let mark = |at: usize, mark: &str| text.get(at..at + 1) == Some(mark);
    if text.len() != 19 || !(mark(4, "-") && mark(7, "-") && mark(13, ":") && mark(16, ":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1970..2106).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Years begin in March, so that the leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    days.checked_sub(719_468).map(|days| days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(seconds("1970-01-01 00:00:00"), Some(0));
        assert_eq!(seconds("1996-09-07T11:02:23"), Some(842_094_143));
        assert_eq!(seconds("2000-02-29 23:59:59"), Some(951_868_799));
        assert_eq!(seconds("2015-03-01 00:00:01"), Some(1_425_168_001));
        for wrong in
            ["", "1996-09-07", "1996-13-07 00:00:00", "1996-09-07 24:00:00", "1900-01-01 00:00:00", "1996/09/07 00:00:00"]
        {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
