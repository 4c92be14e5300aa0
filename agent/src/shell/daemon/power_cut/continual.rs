//! Power cuts where heads learn from every label and their mixture becomes a champion.
use super::*;

/// The default policy.
const VALUE: &str = "value";

#[test]
fn a_cut_while_heads_learn_are_frozen_and_promoted_corrupts_nothing_and_a_model_serves() {
    let (folder, cuts) = run(VALUE);
    let database = Database::of(folder.path());
    let reports = Known::stored(&database).reports;
    assert!(reports.iter().any(|(_, json)| json.contains("consolidated")), "the mixture became a candidate");
    let (count, moments) = check(&cuts, folder.path(), false, VALUE);
    println!("{count} cuts at {moments} moments");
    assert!(moments > 20, "{moments} moments");
}
