//! Waiting until something can be observed.
//!
//! Decides how often to look and when to give up; must not know what is looked at. Invariant: a
//! wait that gives up says what it waited for and what it saw last.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks again and again until `look` returns `Ok`, for at most `limit`, and returns its value.
///
/// `what` completes the sentence "waited for ...". The `Err` of `look` is what it saw instead; the
/// last one becomes part of the error. `look` runs at least once, and once more at the deadline.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T> {
    let start = Instant::now();
    loop {
        let late = start.elapsed() >= limit;
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if late => bail!("waited {limit:?} for {what}, in vain; last seen: {seen}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_returned_as_soon_as_it_is_there() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("{looks} looks")) }
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn giving_up_names_the_wish_and_the_last_observation() {
        let error = until::<()>("rain", Duration::from_millis(1), || Err("sun".into())).unwrap_err();
        assert_eq!(error.to_string(), "waited 1ms for rain, in vain; last seen: sun");
    }
}
