//! What people say to a trial: that it may begin, that it is to stay where it is, nothing at all.
use expect_test::expect;

use super::*;

#[test]
fn a_person_is_asked_and_silence_has_a_meaning() {
    let mut story = Story::new("ask-after:1h:approve");
    story.passed(1).passed(2).step(Event::Approve(answer("anna"))).step(Event::Approve(answer("anna")));
    story.rows(10, 0, 0).step(Event::Hold(answer("bert"))).step(Event::Reject(answer("bert"), "not today".to_owned()));
    story.passed(2).step(Event::Reject(answer("bert"), String::new())).step(Event::Hold(answer("bert")));
    story.passed(3);
    story.now += 3_600;
    story.step(Event::Tick(Timestamp(0))).step(Event::Promote(answer("anna")));
    story.step(Event::Promoted(named(0)));
    story.settings.approval = Approval::Ask;
    story.passed(4);
    story.now += 30 * 86_400;
    story.step(Event::Tick(Timestamp(0)));
    story.check(&expect![[r#"
        0       asks, Approve after 3600 s
        0       refused: another candidate is being tried: `hone reject` ends that
        0       approved by anna
        0       Shadow after 0 pairs
        0       refused: no candidate waits for an answer (`hone status`)
        10      Shadow held after 10 pairs
        10      ended by bert: Person { reason: "not today" } after 10 pairs, abort 1.0
        10      asks, Approve after 3600 s
        10      ended by bert: Person { reason: "" } after 0 pairs, abort 0.0
        10      refused: no candidate is being tried (`hone status`)
        10      asks, Approve after 3600 s
        3610    approved by nobody
        3610    Shadow after 0 pairs
        3610    won by anna after 0 pairs, promote 1.0, 0 missed
        3610    asks, Reject after 2592000 s
        2595610 ended: Silence after 0 pairs, abort 0.0
        Orders { compare: None, route: None, promote: None, regret: false }
    "#]]);
}

#[test]
fn a_held_stage_is_not_left_until_told_and_still_has_a_deadline() {
    let mut story = Story::new("auto");
    story.passed(1).rows(100, 0, 4).step(Event::Hold(answer("anna"))).rows(2_000, 0, 4);
    story.step(Event::Resume(answer("anna"))).rows(3, 0, 4).step(Event::Hold(answer("anna"))).restart();
    story.now += 31 * 86_400;
    story.step(Event::Tick(Timestamp(0)));
    story.check(&expect![[r#"
        0       approved by policy
        0       Shadow after 0 pairs
        100     Shadow held after 100 pairs
        2100    Shadow after 2100 pairs
        2100    Canary { share: 1 } after 2101 pairs
        2103    Canary { share: 1 } held after 2103 pairs
        2680503 ended: Undecided after 2103 pairs, abort 0.0
        Orders { compare: None, route: None, promote: None, regret: false }
    "#]]);
}
