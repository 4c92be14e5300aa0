//! A real mosquitto that dies and comes back, a wire that can be cut, and a peer that records and publishes.
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use serde_json::Value;

use crate::until;

/// Where Debian puts it, outside the path of ordinary users.
const MOSQUITTO: [&str; 2] = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];

/// A broker on a loopback port of its own, without any memory.
#[derive(Debug)]
pub struct Broker {
    folder: tempfile::TempDir,
    binary: PathBuf,
    /// Its port.
    pub port: u16,
    child: Child,
}

impl Broker {
    /// Starts one, with more lines for its configuration; none, with a word about it, where mosquitto is not installed.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(more: &str) -> Option<Self> {
        let Some(binary) = MOSQUITTO.iter().map(PathBuf::from).find(|path| path.exists()) else {
            eprintln!("SKIPPED: mosquitto is not installed (apt-get install mosquitto)");
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let listener = if more.contains("listener") { String::new() } else { format!("listener {port} 127.0.0.1\n") };
        let more = more.replace("PORT", &port.to_string()).replace("FOLDER", &folder.path().display().to_string());
        // Root reads what the test wrote; a queue without limits, so that only faults lose messages.
        let text = format!(
            "user root\n{listener}allow_anonymous true\npersistence false\nmax_queued_messages 0\nmax_packet_size 262144\n{more}\n"
        );
        std::fs::write(folder.path().join("mosquitto.conf"), text).expect("a temporary folder can be written");
        let child = spawn(&binary, &folder, port);
        Some(Self { folder, binary, port, child })
    }

    /// Starts one with a configuration that somebody else has written, for a port of this machine.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start_with(configuration: &str, port: u16) -> Option<Self> {
        let Some(binary) = MOSQUITTO.iter().map(PathBuf::from).find(|path| path.exists()) else {
            eprintln!("SKIPPED: mosquitto is not installed (apt-get install mosquitto)");
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Root reads what the test wrote; without it mosquitto becomes its own user.
        std::fs::write(folder.path().join("mosquitto.conf"), format!("user root\n{configuration}"))
            .expect("a temporary folder can be written");
        let child = spawn(&binary, &folder, port);
        Some(Self { folder, binary, port, child })
    }

    /// Kills it; everything it knew is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after [`Broker::kill`].
    pub fn restart(&mut self) {
        self.child = spawn(&self.binary, &self.folder, self.port);
    }

    /// Stops it without a word, as a frozen machine would; `CONT` wakes it.
    ///
    /// # Panics
    /// `kill` cannot be started.
    pub fn signal(&self, name: &str) {
        let signal = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(signal.expect("kill can be started").success());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(binary: &PathBuf, folder: &tempfile::TempDir, port: u16) -> Child {
    let mut command = Command::new(binary);
    command.arg("-c").arg(folder.path().join("mosquitto.conf"));
    let log = std::fs::File::create(folder.path().join("log")).expect("a log");
    let mut child = command.stdout(Stdio::null()).stderr(log).stdin(Stdio::null()).spawn().expect("mosquitto starts");
    until("mosquitto listens", || {
        let ended = child.try_wait().expect("a child of ours");
        assert!(ended.is_none(), "{}", std::fs::read_to_string(folder.path().join("log")).unwrap_or_default());
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    child
}

/// A port nobody listens on.
///
/// # Panics
/// The system gives none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    listener.local_addr().expect("a bound port").port()
}

/// A wire to a port of this machine, which can be cut and mended.
#[derive(Debug)]
pub struct Wire {
    /// The near end.
    pub port: u16,
    whole: Arc<AtomicBool>,
    swallows: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    /// A wire to `port`, whole.
    ///
    /// # Panics
    /// The system gives no port.
    #[must_use]
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let near = listener.local_addr().expect("a bound port").port();
        let (whole, streams) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
        let swallows = Arc::new(AtomicBool::new(false));
        let (is_whole, all, gone) = (Arc::clone(&whole), Arc::clone(&streams), Arc::clone(&swallows));
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_whole.load(Ordering::SeqCst) {
                    let _ = join(stream, port, &all, &gone);
                }
            }
        });
        Self { port: near, whole, swallows, streams }
    }

    /// Ends every connection and refuses new ones.
    ///
    /// # Panics
    /// A copying thread has panicked.
    pub fn cut(&self) {
        self.whole.store(false, Ordering::SeqCst);
        for stream in self.streams.lock().expect("no thread panics").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Swallows every byte from now on, in both directions, and keeps the connections: a network that is cut says nothing.
    pub fn swallow(&self) {
        self.swallows.store(true, Ordering::SeqCst);
    }

    /// Lets connections through again; those that have lost bytes end.
    pub fn mend(&self) {
        if self.swallows.load(Ordering::SeqCst) {
            self.cut();
            self.swallows.store(false, Ordering::SeqCst);
        }
        self.whole.store(true, Ordering::SeqCst);
    }
}

fn join(near: TcpStream, port: u16, all: &Mutex<Vec<TcpStream>>, gone: &Arc<AtomicBool>) -> io::Result<()> {
    let far = TcpStream::connect(("127.0.0.1", port))?;
    all.lock().expect("no thread panics").extend([near.try_clone()?, far.try_clone()?]);
    for (mut from, mut to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        let gone = Arc::clone(gone);
        thread::spawn(move || {
            let mut bytes = [0; 16 * 1024];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                if !gone.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

/// One message that came.
#[derive(Clone, Debug)]
pub struct Came {
    /// Topic.
    pub topic: String,
    /// Payload; null if it is no JSON.
    pub payload: Value,
    /// The same, as it came; kept only where it is no JSON, or not ours.
    pub bytes: Vec<u8>,
    /// Whether the broker had kept it.
    pub retained: bool,
}

/// A peer that reads everything of `hone/v1`, through every restart of the broker, and publishes.
#[derive(Debug)]
pub struct Peer {
    client: AsyncClient,
    came: Arc<Mutex<Vec<Came>>>,
    subscriptions: Arc<AtomicU64>,
}

impl Peer {
    /// A peer of the broker on `port`.
    ///
    /// # Panics
    /// The system gives no thread.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self::of(port, "hone/v1/#")
    }

    /// A peer that reads `filter` instead.
    ///
    /// # Panics
    /// The system gives no thread.
    #[must_use]
    pub fn of(port: u16, filter: &str) -> Self {
        let filter = filter.to_owned();
        let mut options = MqttOptions::new(format!("peer-{port}-{}", ulid::Ulid::generate()), "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5)).set_max_packet_size(Some(1 << 20));
        let (client, mut eventloop) = AsyncClient::new(options, 1_024);
        let (came, subscriptions) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (all, count, own) = (Arc::clone(&came), Arc::clone(&subscriptions), client.clone());
        let poll = async move {
            loop {
                match eventloop.poll().await {
                    // Without acknowledgements: what the broker wrote before it died is read to the end.
                    Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                        let _ = own.try_subscribe(filter.clone(), QoS::AtMostOnce);
                    }
                    Ok(Event::Incoming(Incoming::SubAck(_))) => {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(Event::Incoming(Incoming::Publish(message))) => {
                        let topic = String::from_utf8_lossy(&message.topic).into_owned();
                        let read = serde_json::from_slice(&message.payload);
                        let bytes = if read.is_err() || !topic.starts_with("hone/") {
                            message.payload.to_vec()
                        } else {
                            Vec::new()
                        };
                        let came = Came { topic, payload: read.unwrap_or_default(), bytes, retained: message.retain };
                        all.lock().expect("no thread panics").push(came);
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(poll)
        });
        let peer = Self { client, came, subscriptions };
        peer.subscribed(1);
        peer
    }

    /// Subscriptions so far: one for each connection.
    #[must_use]
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions.load(Ordering::SeqCst)
    }

    /// Waits for this subscription.
    pub fn subscribed(&self, number: u64) {
        until("the peer is subscribed", || (self.subscriptions() >= number).then_some(()));
    }

    /// Everything that came, in its order.
    ///
    /// # Panics
    /// The reading thread has panicked.
    #[must_use]
    pub fn came(&self) -> Vec<Came> {
        self.came.lock().expect("no thread panics").clone()
    }

    /// What came last on `topic`, below `hone/v1`.
    #[must_use]
    pub fn last(&self, topic: &str) -> Option<Value> {
        let topic = format!("hone/v1/{topic}");
        self.came().into_iter().rev().find(|came| came.topic == topic).map(|came| came.payload)
    }

    /// Publishes a message below `hone/v1` that is not retained.
    ///
    /// # Panics
    /// The client takes nothing any more.
    pub fn tell(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        let topic = format!("hone/v1/{topic}");
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload.into()).expect("room for a message");
    }

    /// Publishes a message anywhere that is not retained.
    ///
    /// # Panics
    /// The client takes nothing any more.
    pub fn raw(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload.into()).expect("room for a message");
    }

    /// Publishes a retained message below `hone/v1`.
    ///
    /// # Panics
    /// The client takes nothing any more.
    pub fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        let topic = format!("hone/v1/{topic}");
        self.client.try_publish(topic, QoS::AtLeastOnce, true, payload.into()).expect("room for a message");
    }
}
