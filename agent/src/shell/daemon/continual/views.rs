//! The heads, for status.
use serde_json::{Value, json};

use super::Heads;
use crate::shell::daemon::keeper::Keeper;

impl Heads {
    fn view(&self) -> Value {
        let Some(learner) = &self.learner else {
            return json!({"learning": false, "serve": self.serves});
        };
        let horizons = learner.adaptive.horizons();
        json!({
            "learning": true, "serve": self.serves, "frozen": self.held, "adaptation": learner.number, "labels": horizons.rows(),
            "unserved_labels": learner.unpublished,
            "champion_weight": horizons.weights().next(), "block": horizons.block(), "refused_rows": horizons.refused(),
            "waiting_samples": learner.adaptive.waiting(), "memory_bytes_max": learner.adaptive.size_bytes_max(),
            "work_mac": horizons.work_mac(),
        })
    }
}

impl Keeper {
    /// Heads, for status.
    pub(in crate::shell::daemon) fn heads_view(&self) -> Value {
        let mut view = self.heads.view();
        if let Some(saved) = &self.saved {
            let contest = saved.cycle.contest();
            let ((differed, fell_back), (worse, better)) = (contest.counts(), contest.shown());
            let answers = saved.cycle.serves_mixture(&self.rules.cycle) && view["learning"] == json!(true);
            view["answers"] = json!(answers);
            view["differed_labels"] = json!(differed);
            view["fell_back"] = json!(fell_back);
            view["evidence"] = json!({"worse": worse, "better": better});
        }
        view
    }
}
