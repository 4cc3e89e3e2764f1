//! How much one client may ask: a bucket of tokens for each address. Pure: the time comes in with each call.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

/// Most clients that are told apart at a time.
const CLIENTS_MAX: usize = 65_536;
/// Seconds of its rate that a client may use at once.
const BURST_SECONDS: f64 = 2.0;

/// The buckets.
#[derive(Debug)]
pub struct Limiter {
    /// Questions per second; 0: any number.
    rate: f64,
    clients: HashMap<IpAddr, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limiter {
    /// Allows each client `rate` questions per second, twice as many at once; 0: no limit.
    #[must_use]
    pub fn new(rate: u32) -> Self {
        Self { rate: rate.into(), clients: HashMap::new() }
    }

    /// Whether a client may ask now.
    pub fn allows(&mut self, client: IpAddr, now: Instant) -> bool {
        if self.rate == 0.0 {
            return true;
        }
        let (rate, full) = (self.rate, self.rate * BURST_SECONDS);
        let client = grouped(client);
        if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&client) {
            self.forget_full(now);
        }
        let bucket = self.clients.entry(client).or_insert(Bucket { tokens: full, at: now });
        let earned = now.saturating_duration_since(bucket.at).as_secs_f64() * rate;
        (bucket.tokens, bucket.at) = ((bucket.tokens + earned).min(full), now);
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }

    /// Forgets clients that could begin again with a full bucket; all, if that is not enough: a flood from forged
    /// addresses.
    fn forget_full(&mut self, now: Instant) {
        let rate = self.rate;
        self.clients.retain(|_, bucket| {
            let earned = now.saturating_duration_since(bucket.at).as_secs_f64() * rate;
            bucket.tokens + earned < rate * BURST_SECONDS
        });
        if self.clients.len() >= CLIENTS_MAX {
            self.clients.clear();
        }
    }
}

/// An IPv6 client has as many addresses as it likes in its /64.
fn grouped(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_client_gets_its_rate_and_a_burst_and_others_are_not_concerned() {
        let (mut limiter, begin) = (Limiter::new(10), Instant::now());
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let granted = |limiter: &mut Limiter, ip: IpAddr, at: Instant| {
            (0..100).filter(|_| limiter.allows(ip, at)).count()
        };
        assert_eq!(granted(&mut limiter, one, begin), 20);
        assert_eq!(granted(&mut limiter, one, begin + Duration::from_secs(1)), 10);
        assert_eq!(granted(&mut limiter, "10.0.0.2".parse().unwrap(), begin), 20);
        // One network of a host.
        assert_eq!(granted(&mut limiter, "fd00::1".parse().unwrap(), begin), 20);
        assert_eq!(granted(&mut limiter, "fd00::2".parse().unwrap(), begin), 0);
        assert_eq!(granted(&mut Limiter::new(0), one, begin), 100);
    }

    #[test]
    fn forged_addresses_do_not_fill_the_memory() {
        let (mut limiter, begin) = (Limiter::new(10), Instant::now());
        for ip in 0..3 * u32::try_from(CLIENTS_MAX).unwrap() {
            limiter.allows(IpAddr::V4(ip.into()), begin);
            assert!(limiter.clients.len() <= CLIENTS_MAX);
        }
    }
}
