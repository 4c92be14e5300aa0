//! A machine beside the gateway: publishes what it measures to the local broker and hears the answers.
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use serde_json::Value;

use crate::until;

/// Messages of one run of a test.
const REQUESTS: usize = 20_000;

/// A client of the local broker, for the test's whole process.
#[derive(Debug)]
pub struct Machine {
    client: AsyncClient,
    heard: Arc<Mutex<Vec<(String, Value)>>>,
    taken: Arc<Mutex<usize>>,
}

impl Machine {
    /// Connects to `port` and hears `filter`.
    ///
    /// # Panics
    /// The broker does not let it.
    #[must_use]
    pub fn new(port: u16, filter: &str) -> Self {
        let mut options = MqttOptions::new(format!("machine-{port}"), "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut eventloop) = AsyncClient::new(options, REQUESTS);
        let heard = Arc::<Mutex<Vec<_>>>::default();
        let (taken, ready) = (Arc::<Mutex<usize>>::default(), Arc::new(Mutex::new(false)));
        let (all, acknowledged, begun) = (Arc::clone(&heard), Arc::clone(&taken), Arc::clone(&ready));
        let (own, filter) = (client.clone(), filter.to_owned());
        let poll = async move {
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                        let _ = own.try_subscribe(&filter, QoS::AtLeastOnce);
                    }
                    Ok(Event::Incoming(Incoming::SubAck(_))) => *begun.lock().expect("no thread panics") = true,
                    Ok(Event::Incoming(Incoming::PubAck(_))) => *acknowledged.lock().expect("no thread panics") += 1,
                    Ok(Event::Incoming(Incoming::Publish(message))) => {
                        let topic = String::from_utf8_lossy(&message.topic).into_owned();
                        let payload = serde_json::from_slice(&message.payload).unwrap_or_default();
                        all.lock().expect("no thread panics").push((topic, payload));
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
        until("the machine is subscribed", || ready.lock().expect("no thread panics").then_some(()));
        Self { client, heard, taken }
    }

    /// Publishes with QoS 1.
    ///
    /// # Panics
    /// The client takes nothing any more.
    pub fn publish(&self, topic: &str, payload: &Value) {
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload.to_string()).expect("room for a message");
    }

    /// Publishes without acknowledgement.
    ///
    /// # Panics
    /// The client takes nothing any more.
    pub fn throw(&self, topic: &str, payload: &Value) {
        self.client.try_publish(topic, QoS::AtMostOnce, false, payload.to_string()).expect("room for a message");
    }

    /// Messages the broker has taken.
    ///
    /// # Panics
    /// The reading thread has panicked.
    #[must_use]
    pub fn taken(&self) -> usize {
        *self.taken.lock().expect("no thread panics")
    }

    /// Everything heard, in its order.
    ///
    /// # Panics
    /// The reading thread has panicked.
    #[must_use]
    pub fn heard(&self) -> Vec<(String, Value)> {
        self.heard.lock().expect("no thread panics").clone()
    }
}
