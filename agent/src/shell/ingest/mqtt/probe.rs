//! One short connection beside the agent's own, to learn whether the local broker lets us in and read the topics.
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Filter;
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming};

use super::{options, refused_topic};
use crate::shell::ingest::settings::InputMqttSettings;

/// Longest wait for all of it.
const WITHIN: Duration = Duration::from_secs(10);

/// Connects as `<client_id>-doctor`, subscribes without a session, says goodbye; `None` if no broker is named.
///
/// # Errors
/// What the broker, or the way to it, says.
#[must_use]
pub fn probe(settings: &InputMqttSettings) -> Option<Result<(), String>> {
    let broker = settings.address()?;
    let ask = async {
        // Another name, or the broker would end the agent's own connection; no session, or it would keep messages for nobody.
        let own =
            InputMqttSettings { client_id: format!("{}-doctor", settings.client_id), session_s: 0, ..settings.clone() };
        let mut options = options(&own, &broker)?;
        options.set_clean_start(true);
        let (client, eventloop) = AsyncClient::new(options, settings.topics.len() + 8);
        let filters = settings.topics.iter().map(|topic| Filter::new(topic.topic.clone(), QoS::AtMostOnce)).collect();
        let answer = tokio::time::timeout(WITHIN, subscribed(&client, eventloop, filters)).await;
        answer.unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Some(runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(ask)))
}

async fn subscribed(client: &AsyncClient, mut eventloop: EventLoop, filters: Vec<Filter>) -> Result<(), String> {
    loop {
        match eventloop.poll().await.map_err(|error| error.to_string())? {
            Event::Incoming(Incoming::ConnAck(_)) => {
                client.try_subscribe_many(filters.clone()).map_err(|error| error.to_string())?;
            }
            Event::Incoming(Incoming::SubAck(answer)) => {
                let refused = refused_topic(&answer.return_codes, &filters);
                // The goodbye leaves with the next look; nobody waits for what comes after.
                let _ = client.try_disconnect();
                let _ = tokio::time::timeout(Duration::from_millis(200), eventloop.poll()).await;
                return refused.map_or(Ok(()), Err);
            }
            _ => {}
        }
    }
}
