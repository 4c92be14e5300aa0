//! What a broker will never take: given up by name, so that nothing behind it waits.
use super::{BATCH, NEIGHBOUR, Running, Token, URGENT};
use crate::shell::mqtt::connection::Message;

impl Running {
    /// A message is larger than the broker takes at once; the client would end the connection over it, for ever.
    pub(super) async fn too_large(&mut self, token: Token, message: &Message) {
        let (bytes, most) = (message.payload.len(), self.packet_bytes_max);
        match token {
            BATCH => self.batch_refused(format!("a batch takes {bytes} bytes, the broker {most} at once")).await,
            URGENT | NEIGHBOUR => {
                self.alarm(&format!("`{}` takes {bytes} bytes, the broker {most} at once", message.topic));
            }
            report => self.park(report, 0x95),
        }
    }

    /// Gives a report up for good, with the reason code of the broker or ours.
    pub(super) fn park(&mut self, token: Token, code: u8) {
        self.alarm(&format!(
            "report {token} was given up with code {code:#04x}: it stays on this device (`hone status`)"
        ));
        self.parked.push((token.cast_signed(), code));
        self.settle(token);
    }
}
