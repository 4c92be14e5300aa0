//! The orderly end of the link: presence is told by itself, and the will called off.
use fleet_protocol::report::Presence;

use super::{GOODBYE, NEIGHBOUR, OFFLINE, Running, URGENT};
use crate::decide::link::Link;
use crate::shell::mqtt::connection::Heard;

impl Running {
    /// Says that we go, waits a moment for that to arrive, and calls the will off.
    pub(super) async fn goodbye(mut self) {
        let offline = self.presence(Presence::Offline);
        if let Some(connection) = self.connection.as_mut().filter(|_| matches!(self.link, Link::Online { .. }))
            && connection.publish(OFFLINE, &offline)
        {
            if let Some(health) = self.fleet.reports.health(false) {
                let _ = connection.publish(NEIGHBOUR, &health);
            }
            let arrived = async {
                loop {
                    match connection.next().await {
                        Heard::Taken(OFFLINE) | Heard::Lost(_) => break,
                        Heard::Taken(position) if position < NEIGHBOUR && position != URGENT => {
                            self.outbox.settle(position.cast_signed());
                        }
                        _ => {}
                    }
                }
                connection.goodbye();
                while !matches!(connection.next().await, Heard::Lost(_)) {}
            };
            let _ = tokio::time::timeout(GOODBYE, arrived).await;
        }
        self.taken = u32::MAX;
        self.tell_disk().await;
    }
}
