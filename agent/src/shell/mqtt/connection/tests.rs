//! One connection against a broker that is a few lines of this test: every byte that leaves is looked at, every answer is ours.
use std::collections::BTreeMap;
use std::future::Future;

use fleet_protocol::topics::Delivery;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

/// Everything happens on this machine.
const SOON: Duration = Duration::from_secs(10);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it happens at once")
}

/// The broker's end of one connection.
struct Far(TcpStream);

/// A packet: its first byte, and what follows its length.
type Packet = (u8, Vec<u8>);

impl Far {
    async fn read(&mut self) -> Packet {
        let first = self.0.read_u8().await.unwrap();
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.0.read_u8().await.unwrap();
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        (first, body)
    }

    async fn write(&mut self, first: u8, body: &[u8]) {
        let mut packet = vec![first];
        let mut left = body.len();
        loop {
            let byte = u8::try_from(left % 128).unwrap();
            left /= 128;
            packet.push(if left > 0 { byte | 0x80 } else { byte });
            if left == 0 {
                break;
            }
        }
        packet.extend(body);
        self.0.write_all(&packet).await.unwrap();
    }

    /// The packet ids of so many messages that come next.
    async fn ids(&mut self, count: usize) -> Vec<u16> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let (first, body) = soon(self.read()).await;
            assert_eq!(first & 0xf6, 0x32, "a message of quality 1");
            let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
            ids.push(u16::from_be_bytes([body[topic + 2], body[topic + 3]]));
        }
        ids
    }

    async fn acknowledge(&mut self, id: u16, reason: u8) {
        let [high, low] = id.to_be_bytes();
        self.write(0x40, &[high, low, reason]).await;
    }
}

fn settings(port: u16) -> MqttSettings {
    MqttSettings {
        broker: format!("mqtt://127.0.0.1:{port}"),
        device: "press-07".to_owned(),
        will_delay_s: 7,
        ..MqttSettings::default()
    }
}

fn message(topic: &str, delivery: Delivery) -> Message {
    let payload = topic.as_bytes().to_vec();
    Message { topic: topic.to_owned(), payload, delivery, schema: "x.v1", expires_s: None, content: Content::Json }
}

/// A connection that the broker has accepted with these properties, and what CONNECT asked for.
async fn accepted(properties: &[u8]) -> (Connection, Far, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = settings(listener.local_addr().unwrap().port());
    let dial = Dial::new(settings.broker.parse().unwrap(), &settings).unwrap();
    let mut connection = Connection::open(&dial, &message("will", Delivery::Retained));
    let mut far = Far(soon(listener.accept()).await.unwrap().0);
    let (first, connect) = soon(far.read()).await;
    assert_eq!(first, 0x10);
    let length = u8::try_from(properties.len()).unwrap();
    far.write(0x20, &[&[0, 0, length], properties].concat()).await;
    let heard = soon(connection.next()).await;
    assert!(matches!(heard, Heard::Accepted { .. }), "{heard:?}");
    (connection, far, connect)
}

/// Reads a CONNECT of MQTT 5.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> u32 {
        self.take(bytes).iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::try_from(self.number(2)).unwrap();
        self.take(length)
    }

    fn text(&mut self) -> &'a str {
        str::from_utf8(self.bytes()).unwrap()
    }

    /// Numbers by their property; texts are passed over.
    fn properties(&mut self) -> BTreeMap<u8, u32> {
        let length = usize::from(self.take(1)[0]);
        assert!(length < 0x80);
        let mut own = Reader(self.take(length));
        let mut found = BTreeMap::new();
        while !own.0.is_empty() {
            let id = own.take(1)[0];
            let number = match id {
                0x01 | 0x17 | 0x19 => own.number(1),
                0x21 | 0x22 => own.number(2),
                0x02 | 0x11 | 0x18 | 0x27 => own.number(4),
                0x03 => own.text().len().try_into().unwrap(),
                0x26 => (own.text().len() + own.text().len()).try_into().unwrap(),
                other => panic!("property {other:#x}"),
            };
            found.insert(id, number);
        }
        found
    }
}

#[tokio::test]
async fn a_connection_begins_anew_announces_its_limits_and_leaves_a_retained_will_that_waits() {
    let (_connection, _far, connect) = accepted(&[]).await;
    let mut connect = Reader(&connect);
    assert_eq!((connect.text(), connect.number(1)), ("MQTT", 5));
    // Will: retained, quality 1; clean start: nothing that an earlier client had asked for comes back.
    assert_eq!(connect.number(1), 0b0010_1110);
    assert_eq!(u64::from(connect.number(2)), settings(1).sign_of_life().as_secs());
    let properties = connect.properties();
    // A session that ended with its connection would send the will at once.
    assert_eq!(properties[&0x11], 7 + SESSION_S);
    assert_eq!(usize::try_from(properties[&0x27]).unwrap(), PACKET_BYTES_MAX);
    assert_eq!(properties.get(&0x22).copied().unwrap_or(0), 0, "no alias outlives a connection");
    assert_eq!(connect.text(), "press-07");
    assert_eq!(connect.properties()[&0x18], 7);
    assert_eq!((connect.text(), connect.bytes()), ("will", &b"will"[..]));
}

#[tokio::test]
async fn each_message_leaves_with_the_quality_and_the_flag_of_its_topic() {
    let (mut connection, mut far, _) = accepted(&[]).await;
    for (delivery, flags) in [(Delivery::AtMostOnce, 0x30), (Delivery::AtLeastOnce, 0x32), (Delivery::Retained, 0x33)] {
        assert!(connection.publish(1, &message("t", delivery)));
        assert_eq!(soon(far.read()).await.0, flags, "{delivery:?}");
    }
    assert!(connection.subscribe("down/#".to_owned()));
    let (first, body) = soon(far.read()).await;
    assert_eq!((first, body.last().map(|options| options & 0b11)), (0x82, Some(1)), "quality 1 for commands too");
}

#[tokio::test]
async fn a_message_says_what_it_holds_and_how_long_it_is_worth_keeping() {
    let (mut connection, mut far, _) = accepted(&[]).await;
    for (content, expires_s, kind) in
        [(Content::Json, Some(604_800), "application/json"), (Content::Cbor, None, "application/cbor")]
    {
        assert!(connection.publish(1, &Message { expires_s, content, ..message("t", Delivery::Retained) }));
        let (_, body) = soon(far.read()).await;
        // Behind topic and packet id.
        let properties = Reader(&body[5..]).properties();
        assert_eq!(properties.get(&0x02).copied(), expires_s, "{kind}");
        assert_eq!(
            (properties[&0x01] == 1, properties[&0x03]),
            (content == Content::Json, u32::try_from(kind.len()).unwrap())
        );
        assert!(body.windows(kind.len()).any(|part| part == kind.as_bytes()));
        assert!(body.windows(10).any(|part| part == b"schema\0\x04x."), "{body:?}");
    }
}

#[tokio::test]
async fn an_acknowledgement_settles_the_message_it_names_in_whatever_order_they_come() {
    let (mut connection, mut far, _) = accepted(&[]).await;
    for token in 101..=104 {
        assert!(connection.publish(token, &message("t", Delivery::AtLeastOnce)));
    }
    let ids = far.ids(4).await;
    far.acknowledge(ids[2], 0x00).await;
    assert_eq!(soon(connection.next()).await, Heard::Taken(103));
    // Nobody has subscribed: the broker has it all the same.
    far.acknowledge(ids[0], 0x10).await;
    assert_eq!(soon(connection.next()).await, Heard::Taken(101));
    far.acknowledge(ids[3], 0x87).await;
    assert_eq!(soon(connection.next()).await, Heard::Refused(104, Refused { code: 0x87, for_good: false }));
    far.acknowledge(ids[1], 0x00).await;
    assert_eq!(soon(connection.next()).await, Heard::Taken(102));
}

#[tokio::test]
async fn only_what_is_wrong_with_the_message_itself_is_refused_for_good() {
    let (mut connection, mut far, _) = accepted(&[]).await;
    for (code, for_good) in
        [(0x80, false), (0x83, false), (0x87, false), (0x90, true), (0x91, false), (0x97, false), (0x99, true)]
    {
        assert!(connection.publish(5, &message("t", Delivery::AtLeastOnce)));
        let ids = far.ids(1).await;
        far.acknowledge(ids[0], code).await;
        assert_eq!(soon(connection.next()).await, Heard::Refused(5, Refused { code, for_good }));
    }
}

#[tokio::test]
async fn a_window_is_full_until_an_acknowledgement_comes() {
    let (mut connection, mut far, _) = accepted(&[]).await;
    let mut sent = 0;
    while connection.has_room() && sent < 2 * WINDOW {
        sent += 1;
        assert!(connection.publish(sent as u64, &message("t", Delivery::AtLeastOnce)));
    }
    assert_eq!(sent, WINDOW);
    let ids = far.ids(WINDOW).await;
    far.acknowledge(ids[0], 0x00).await;
    assert_eq!(soon(connection.next()).await, Heard::Taken(1));
    assert!(connection.has_room());
}

#[tokio::test]
async fn a_broker_that_forgets_one_message_ends_the_connection_before_two_share_a_packet_id() {
    let (mut connection, mut far, _) = accepted(&[]).await;
    assert!(connection.publish(1, &message("forgotten", Delivery::AtLeastOnce)));
    let forgotten = far.ids(1).await[0];
    let mut sent = 1;
    let lost = loop {
        sent += 1;
        assert!(connection.publish(sent, &message("t", Delivery::AtLeastOnce)));
        if sent <= u64::from(PACKET_IDS) {
            let ids = far.ids(1).await;
            far.acknowledge(ids[0], 0x00).await;
        }
        match soon(connection.next()).await {
            Heard::Taken(token) => assert_eq!(token, sent),
            other => break other,
        }
    };
    assert_eq!(sent, u64::from(PACKET_IDS) + 1, "no more packet ids than this are kept room for");
    assert!(matches!(&lost, Heard::Lost(reason) if reason.contains(&format!("packet id {forgotten} "))), "{lost:?}");
}

#[tokio::test]
async fn a_large_message_is_read_and_a_broker_that_takes_little_is_believed() {
    let (mut connection, mut far, _) = accepted(&[]).await;
    let payload = vec![b'x'; PACKET_BYTES_MAX - 100];
    far.write(0x30, &[&[0, 1, b't', 0], &payload[..]].concat()).await;
    assert_eq!(soon(connection.next()).await, Heard::Message { topic: "t".to_owned(), payload });
    for (announced, expected) in [(20_000_u32, 20_000), (1 << 30, PACKET_BYTES_MAX)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = settings(listener.local_addr().unwrap().port());
        let dial = Dial::new(settings.broker.parse().unwrap(), &settings).unwrap();
        let mut connection = Connection::open(&dial, &message("will", Delivery::Retained));
        let mut far = Far(soon(listener.accept()).await.unwrap().0);
        soon(far.read()).await;
        far.write(0x20, &[&[0, 0, 5, 0x27], &announced.to_be_bytes()[..]].concat()).await;
        assert_eq!(soon(connection.next()).await, Heard::Accepted { packet_bytes_max: expected });
    }
}

#[tokio::test]
async fn a_subscription_that_is_denied_is_told() {
    for (code, granted) in [(0x01, true), (0x87, false)] {
        let (mut connection, mut far, _) = accepted(&[]).await;
        assert!(connection.subscribe("down/#".to_owned()));
        let (_, body) = soon(far.read()).await;
        far.write(0x90, &[body[0], body[1], 0, code]).await;
        assert_eq!(soon(connection.next()).await, Heard::Subscribed { granted });
    }
}

#[tokio::test]
async fn a_broker_that_gives_our_name_to_another_is_told_from_one_that_is_gone() {
    for (packet, taken_over) in [(&[0x8e, 0], true), (&[0x8b, 0], false), (&[0x98, 0], false)] {
        let (mut connection, mut far, _) = accepted(&[]).await;
        far.write(0xe0, packet).await;
        let heard = soon(connection.next()).await;
        assert_eq!(heard == Heard::TakenOver, taken_over, "{heard:?}");
        assert!(taken_over || matches!(heard, Heard::Lost(_)));
        assert!(matches!(soon(connection.next()).await, Heard::Lost(_)), "and nothing comes after");
    }
}

#[tokio::test]
async fn an_answer_to_a_sign_of_life_is_heard_so_that_an_idle_link_is_not_given_up() {
    let (mut connection, mut far, _) = accepted(&[]).await;
    far.write(0xd0, &[]).await;
    assert_eq!(soon(connection.next()).await, Heard::Alive);
}

#[tokio::test]
async fn the_goodbye_calls_the_will_off() {
    let (connection, mut far, _) = accepted(&[]).await;
    connection.goodbye();
    let (first, body) = soon(far.read()).await;
    assert_eq!((first, body.first().copied().unwrap_or(0)), (0xe0, 0), "an end in order, not one with the will");
}
