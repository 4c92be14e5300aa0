//! What a promotion really brought: on a sample of the labelled traffic the champion of before is asked as well.
use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;

use super::keeper::Keeper;
use crate::decide::cycle::Report;
use crate::decide::gate::Evidence;
use crate::shell::store::NewRecord;

/// One labelled sample of so many is answered by the champion of before as well.
const REALISED_EVERY: i64 = 20;
/// Compared samples after which the realised gain of a promotion is settled.
const REALISED_ROWS: u64 = 400;
/// And after how many each it is booked.
const REALISED_BOOKED: u64 = 20;

impl Keeper {
    /// Asks the champion of before on a sample of the labelled traffic what it would have said.
    pub(super) fn realise(&mut self, record: &NewRecord, seq: i64, truth: &[f32]) {
        if seq % REALISED_EVERY != 0 {
            return;
        }
        let Some(serving) = self.shared.slot.serving() else { return };
        let (Some(saved), Some(before)) = (&mut self.saved, &serving.previous) else { return };
        let Some(realised) = saved.realised.as_mut().filter(|realised| realised.to == record.model) else { return };
        let (now, then) = (&serving.champion.model, before.answer(&record.features));
        if serving.champion.digest != record.model || then.len() != record.output.len() {
            return;
        }
        realised.evidence.push(now.loss(&then, truth), now.loss(&record.output, truth));
        // Each time the ledger is written the whole state is.
        if realised.evidence.rows.is_multiple_of(REALISED_BOOKED) {
            self.books.realised(realised.run, &realised.evidence);
        }
        if realised.evidence.rows >= REALISED_ROWS {
            saved.realised = None;
        }
        self.changed += 1;
    }
}

/// What a promotion has brought so far: the champion of before against what was served, on a sample of the labelled traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Realised {
    run: u64,
    to: Digest,
    evidence: Evidence,
}

impl Realised {
    /// Begins with each promotion, and ends with each return to a model of before.
    pub(super) fn begin(realised: &mut Option<Self>, reports: &[Report]) {
        for report in reports {
            match report {
                Report::Promote { run, to, .. } => {
                    *realised = Some(Self { run: *run, to: *to, evidence: Evidence::default() });
                }
                Report::Rollback { .. } => *realised = None,
                _ => {}
            }
        }
    }
}
