//! Where a broker is, as every part of the fleet writes it.
use std::fmt;
use std::str::FromStr;

/// `mqtts://HOST[:PORT]`, or `mqtt://HOST[:PORT]` without encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Name or address.
    pub host: String,
    /// Port; 8883 with encryption and 1883 without, unless one is named.
    pub port: u16,
    /// Whether the link is encrypted.
    pub tls: bool,
}

/// A text that names no broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no broker: write mqtts://HOST:PORT, or mqtt://HOST:PORT without encryption")]
pub struct BrokerError(String);

impl FromStr for Broker {
    type Err = BrokerError;

    fn from_str(url: &str) -> Result<Self, BrokerError> {
        let refuse = || BrokerError(url.chars().take(80).collect());
        let (tls, rest) = match url.strip_prefix("mqtts://") {
            Some(rest) => (true, rest),
            None => (false, url.strip_prefix("mqtt://").ok_or_else(refuse)?),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(refuse)?),
            None => (rest, if tls { 8883 } else { 1883 }),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return Err(refuse());
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.tls { "mqtts" } else { "mqtt" }, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_named_by_its_url_and_nothing_else() {
        let broker = |host: &str, port, tls| Ok(Broker { host: host.to_owned(), port, tls });
        assert_eq!("mqtts://broker.example".parse(), broker("broker.example", 8883, true));
        assert_eq!("mqtt://127.0.0.1:1884".parse(), broker("127.0.0.1", 1884, false));
        for wrong in ["", "broker", "http://b", "mqtt://", "mqtt://b:0", "mqtt://b:x", "mqtt://a b", "mqtt://b/path"] {
            assert_eq!(wrong.parse::<Broker>(), Err(BrokerError(wrong.to_owned())));
        }
        assert_eq!("mqtt://b".parse::<Broker>().unwrap().to_string(), "mqtt://b:1883");
    }
}
