//! What every door needs besides the guard: a count of who is inside, and a log that cannot be flooded from outside.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The places behind one door: so many in all, and so many for one address.
#[derive(Debug)]
pub struct Places {
    max: usize,
    max_per_address: usize,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Places {
    pub fn new(max: usize, max_per_address: usize) -> Arc<Self> {
        Arc::new(Self { max, max_per_address, present: Mutex::default() })
    }

    /// A place for a caller from `peer`, or which limit leaves none for it.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Result<Place, Full> {
        let peer = peer.to_canonical();
        let mut present = self.present.lock();
        let here = present.by_address.get(&peer).copied().unwrap_or(0);
        if present.all >= self.max {
            return Err(Full::InAll);
        }
        if here >= self.max_per_address {
            return Err(Full::ForAddress);
        }
        present.all += 1;
        present.by_address.insert(peer, here + 1);
        Ok(Place { places: Arc::clone(self), peer })
    }
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    InAll,
    ForAddress,
}

/// One connection's place, given back by dropping it.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut present = self.places.present.lock();
        present.all -= 1;
        if let Some(here) = present.by_address.get_mut(&self.peer) {
            *here -= 1;
            if *here == 0 {
                present.by_address.remove(&self.peer);
            }
        }
    }
}

/// Lets one log line through per ten seconds.
#[derive(Debug, Default)]
pub struct Rarely(Mutex<(Option<Instant>, u64)>);

impl Rarely {
    const EVERY: Duration = Duration::from_secs(10);

    /// Calls `log` with the number of lines that were kept back before it, or keeps this one back too.
    pub fn log(&self, log: impl FnOnce(u64)) {
        let untold = {
            let mut state = self.0.lock();
            let now = Instant::now();
            if state.0.is_some_and(|last| now.duration_since(last) < Self::EVERY) {
                state.1 += 1;
                return;
            }
            state.0 = Some(now);
            std::mem::take(&mut state.1)
        };
        log(untold);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_run_out_and_come_back() {
        let places = Places::new(3, 2);
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let one = places.take(a).unwrap();
        let _two = places.take("::ffff:192.0.2.1".parse().unwrap()).unwrap();
        assert_eq!(places.take(a).unwrap_err(), Full::ForAddress);
        let _three = places.take(b).unwrap();
        assert_eq!(places.take(b).unwrap_err(), Full::InAll);
        drop(one);
        assert!(places.take(b).is_ok());
        assert_eq!(places.present.lock().by_address.len(), 2);
    }

    #[test]
    fn lines_that_come_too_fast_are_counted() {
        let rarely = Rarely::default();
        let mut lines = Vec::new();
        for _ in 0..5 {
            rarely.log(|untold| lines.push(untold));
        }
        assert_eq!(lines, [0]);
        rarely.0.lock().0 = None;
        rarely.log(|untold| lines.push(untold));
        assert_eq!(lines, [0, 4]);
    }
}
