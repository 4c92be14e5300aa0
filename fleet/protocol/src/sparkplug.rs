//! Sparkplug B 3.0 as an edge node speaks it: birth, data, death, and the order to be born again. Pure.
//!
//! ```text
//! CONNECT (will: NDEATH with bdSeq) ─► NBIRTH (seq 0, the same bdSeq, every metric) ─► NDATA (seq 1, 2 … 255, 0 …: what has changed)
//!                                        ▲ Node Control/Rebirth, or a metric that the birth did not name
//! ```
//! Each connection has the next bdSeq, so that a host can tell whose death it hears.
use std::collections::BTreeMap;

use prost::Message as _;

use crate::names::{DeviceId, Name};

/// Largest command that is looked at: a rebirth takes some fifty bytes.
const COMMAND_BYTES_MAX: usize = 4_096;
/// The metric by which a host orders a birth.
const REBIRTH: &str = "Node Control/Rebirth";
/// The metric that ties birth and death together.
const BD_SEQ: &str = "bdSeq";

/// The fields of a payload that a node without devices, templates and histories needs; a decoder passes over the others.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Payload {
    /// Milliseconds since 1970.
    #[prost(uint64, optional, tag = "1")]
    pub timestamp: Option<u64>,
    /// What is measured.
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<Metric>,
    /// Counts messages from 0 to 255 and again; none in a death.
    #[prost(uint64, optional, tag = "3")]
    pub seq: Option<u64>,
}

/// One named value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metric {
    /// Its name; `/` makes folders of it.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Milliseconds since 1970.
    #[prost(uint64, optional, tag = "3")]
    pub timestamp: Option<u64>,
    /// Sparkplug's number of its type.
    #[prost(uint32, optional, tag = "4")]
    pub datatype: Option<u32>,
    /// Its value.
    #[prost(oneof = "Value", tags = "10, 11, 13, 14, 15")]
    pub value: Option<Value>,
}

/// A value, as far as this node has such.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    /// Up to 32 bits.
    #[prost(uint32, tag = "10")]
    Int(u32),
    /// 64 bits.
    #[prost(uint64, tag = "11")]
    Long(u64),
    /// A number.
    #[prost(double, tag = "13")]
    Double(f64),
    /// Yes or no.
    #[prost(bool, tag = "14")]
    Boolean(bool),
    /// A text.
    #[prost(string, tag = "15")]
    Text(String),
}

impl Value {
    fn datatype(&self) -> u32 {
        match self {
            Self::Int(_) => 7,
            Self::Long(_) => 8,
            Self::Double(_) => 10,
            Self::Boolean(_) => 11,
            Self::Text(_) => 12,
        }
    }
}

/// Kinds of messages of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is there, with all it has.
    Birth,
    /// Something has changed.
    Data,
    /// It is gone; the last will.
    Death,
    /// A host wants something of it.
    Command,
}

/// An edge node: which connection it is, which message comes next, and what was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    group: Name,
    device: DeviceId,
    bd_seq: u8,
    seq: u8,
    told: BTreeMap<String, Value>,
}

impl Node {
    /// A node before its first connection; `start` tells starts of the agent apart.
    #[must_use]
    pub fn new(group: Name, device: DeviceId, start: u8) -> Self {
        Self { group, device, bd_seq: start, seq: 0, told: BTreeMap::new() }
    }

    /// Where a message of this kind goes.
    #[must_use]
    pub fn topic(&self, kind: Kind) -> String {
        let word = match kind {
            Kind::Birth => "NBIRTH",
            Kind::Data => "NDATA",
            Kind::Death => "NDEATH",
            Kind::Command => "NCMD",
        };
        format!("spBv1.0/{}/{word}/{}", self.group, self.device)
    }

    /// The connection has ended: the next one has the next number, and begins with a birth.
    #[must_use]
    pub fn disconnected(mut self) -> Self {
        self.bd_seq = self.bd_seq.wrapping_add(1);
        self.told.clear();
        self
    }

    /// The will of this connection.
    #[must_use]
    pub fn death(&self, at_ms: u64) -> Vec<u8> {
        let metrics = vec![metric(BD_SEQ, &Value::Long(self.bd_seq.into()), at_ms)];
        Payload { timestamp: Some(at_ms), metrics, seq: None }.encode_to_vec()
    }

    /// What to publish of `facts` now: a birth where a host could not make sense of less, else what has changed, else nothing.
    pub fn tell(&mut self, at_ms: u64, facts: BTreeMap<String, Value>) -> Option<(Kind, Vec<u8>)> {
        let declared =
            |name: &String, value: &Value| self.told.get(name).map(Value::datatype) == Some(value.datatype());
        if self.told.is_empty() || !facts.iter().all(|(name, value)| declared(name, value)) {
            return Some((Kind::Birth, self.birth(at_ms, facts)));
        }
        let changed: Vec<_> = facts
            .iter()
            .filter(|(name, value)| self.told.get(*name) != Some(value))
            .map(|(name, value)| metric(name, value, at_ms))
            .collect();
        if changed.is_empty() {
            return None;
        }
        self.told.extend(facts);
        self.seq = self.seq.wrapping_add(1);
        let payload = Payload { timestamp: Some(at_ms), metrics: changed, seq: Some(self.seq.into()) };
        Some((Kind::Data, payload.encode_to_vec()))
    }

    /// Says everything, from the beginning.
    pub fn birth(&mut self, at_ms: u64, facts: BTreeMap<String, Value>) -> Vec<u8> {
        self.seq = 0;
        let own = [(BD_SEQ, Value::Long(self.bd_seq.into())), (REBIRTH, Value::Boolean(false))];
        let own = own.iter().map(|(name, value)| metric(name, value, at_ms));
        let metrics = own.chain(facts.iter().map(|(name, value)| metric(name, value, at_ms))).collect();
        self.told = facts;
        Payload { timestamp: Some(at_ms), metrics, seq: Some(0) }.encode_to_vec()
    }
}

fn metric(name: &str, value: &Value, at_ms: u64) -> Metric {
    let (name, datatype) = (Some(name.to_owned()), Some(value.datatype()));
    Metric { name, timestamp: Some(at_ms), datatype, value: Some(value.clone()) }
}

/// Whether a host's command orders a birth; whatever else it asks is not done here, for it is not signed.
#[must_use]
pub fn orders_rebirth(command: &[u8]) -> bool {
    let rebirth =
        |metric: &Metric| metric.name.as_deref() == Some(REBIRTH) && metric.value == Some(Value::Boolean(true));
    command.len() <= COMMAND_BYTES_MAX
        && Payload::decode(command).is_ok_and(|payload| payload.metrics.iter().any(rebirth))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(samples: u64) -> BTreeMap<String, Value> {
        BTreeMap::from([
            ("Model/Phase".to_owned(), Value::Text("steady".to_owned())),
            ("Samples".to_owned(), Value::Long(samples)),
        ])
    }

    fn node() -> Node {
        Node::new("plant".parse().unwrap(), "press-07".parse().unwrap(), 255)
    }

    fn read(bytes: &[u8]) -> (Option<u64>, Vec<(String, Value)>) {
        let payload = Payload::decode(bytes).unwrap();
        let named = |metric: Metric| {
            let value = metric.value.unwrap();
            assert_eq!(metric.datatype, Some(value.datatype()));
            (metric.name.unwrap(), value)
        };
        (payload.seq, payload.metrics.into_iter().map(named).collect())
    }

    #[test]
    fn a_birth_names_everything_data_what_changed_and_the_death_the_number_of_its_birth() {
        let mut node = node();
        let death = read(&node.death(5));
        assert_eq!(death, (None, vec![("bdSeq".to_owned(), Value::Long(255))]));
        let (kind, birth) = node.tell(5, facts(1)).unwrap();
        let (seq, metrics) = read(&birth);
        assert_eq!((kind, seq, metrics.len()), (Kind::Birth, Some(0), 4));
        assert!(metrics.contains(&("bdSeq".to_owned(), Value::Long(255))));
        assert!(metrics.contains(&(REBIRTH.to_owned(), Value::Boolean(false))));
        assert_eq!(node.tell(6, facts(1)), None);
        let (kind, data) = node.tell(6, facts(2)).unwrap();
        assert_eq!((kind, read(&data)), (Kind::Data, (Some(1), vec![("Samples".to_owned(), Value::Long(2))])));
        let node = node.disconnected();
        assert_eq!(read(&node.death(7)).1, [("bdSeq".to_owned(), Value::Long(0))], "from 255 on to 0");
        let topics = [Kind::Birth, Kind::Data, Kind::Death, Kind::Command].map(|kind| node.topic(kind));
        let expected = ["NBIRTH", "NDATA", "NDEATH", "NCMD"].map(|word| format!("spBv1.0/plant/{word}/press-07"));
        assert_eq!(topics, expected);
        let mut node = node;
        assert_eq!(node.tell(8, facts(2)).unwrap().0, Kind::Birth, "the next connection begins with a birth");
    }

    #[test]
    fn sequence_numbers_go_round_and_a_metric_nobody_was_told_of_needs_a_birth() {
        let mut node = node();
        node.tell(0, facts(0)).unwrap();
        let seqs: Vec<_> = (1..=257).map(|samples| read(&node.tell(0, facts(samples)).unwrap().1).0.unwrap()).collect();
        assert_eq!((seqs[0], seqs[254], seqs[255], seqs[256]), (1, 255, 0, 1));
        let mut more = facts(300);
        more.insert("Drift/vibration".to_owned(), Value::Double(0.3));
        let (kind, birth) = node.tell(0, more).unwrap();
        assert_eq!((kind, read(&birth).0), (Kind::Birth, Some(0)));
        let mut next = facts(301);
        next.insert("Drift/vibration".to_owned(), Value::Double(0.3));
        let (kind, data) = node.tell(0, next).unwrap();
        assert_eq!((kind, read(&data).0), (Kind::Data, Some(1)), "counted from its birth");
        let mut other = facts(300);
        other.insert("Samples".to_owned(), Value::Text("many".to_owned()));
        assert_eq!(node.tell(0, other).unwrap().0, Kind::Birth, "so does one of another type");
    }

    #[test]
    fn the_encoding_is_that_of_the_specification_byte_by_byte() {
        let payload = Payload {
            timestamp: Some(1),
            metrics: vec![metric("a", &Value::Int(300), 2), metric("b", &Value::Boolean(true), 2)],
            seq: Some(7),
        };
        // Field and wire type, then length or number, as protobuf writes them.
        let expected: &[u8] = &[
            0x08, 0x01, // timestamp
            0x12, 0x0a, 0x0a, 0x01, b'a', 0x18, 0x02, 0x20, 0x07, 0x50, 0xac, 0x02, // metric a
            0x12, 0x09, 0x0a, 0x01, b'b', 0x18, 0x02, 0x20, 0x0b, 0x70, 0x01, // metric b
            0x18, 0x07, // seq
        ];
        assert_eq!(payload.encode_to_vec(), expected);
    }

    #[test]
    fn only_a_rebirth_is_understood_and_garbage_is_nothing() {
        let order = |name: &str, value| Payload { timestamp: None, metrics: vec![metric(name, &value, 1)], seq: None };
        assert!(orders_rebirth(&order(REBIRTH, Value::Boolean(true)).encode_to_vec()));
        assert!(!orders_rebirth(&order(REBIRTH, Value::Boolean(false)).encode_to_vec()));
        assert!(!orders_rebirth(&order("Node Control/Reboot", Value::Boolean(true)).encode_to_vec()));
        for bad in [&b""[..], b"\xff\xff\xff", &[0x12; 3_000], &[0; 5_000]] {
            assert!(!orders_rebirth(bad));
        }
    }
}
